"""A small flow over files, traced into memory: two keys, one note, messages that carry a traceparent."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flows.connectors.replay import ReplaySource, replay_partitions
from flows.connectors.sink import StoreSink
from flows.engine import Parts, build, execute
from flows.store import decisions
from flows.tracing import Tracing
from flows.tracing.export import Pipeline, plain
from flows.tracing.spans import Spans
from operators.adapters.gate import GateSpec
from operators.adapters.tally import Tally
from operators.adapters.window import WindowStep
from operators.ledger import from_genesis
from schemas.decisions import canonical
from schemas.settings import Settings
from tests.unit.test_drafts import DOMAIN, Texts

KEY = b"k" * 32
MODEL = {"name": "tiny", "sha256": "0" * 64, "runtime": "onnxruntime 1"}
KEYS = ("p-alice", "p-bob")
NOTE = "b"
START_S = 1_772_438_400
Links = Mapping[int, str]
"""Offset of a row of events -> the traceparent of the message that brought it."""


def traceparent(number: int, flags: str = "01") -> str:
    """Of the message with this number."""
    return f"00-{number:032x}-{number:016x}-{flags}"


class LinkedSource(ReplaySource):
    """A replay whose messages carry traceparents."""

    links: Links = {}  # noqa: RUF012

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Any:
        """Wrap what the partition says."""
        part = super().build_part(step_id, for_part, resume_state)
        said: Callable[[], Any] = part.next_batch
        if for_part.startswith("rows"):
            part.next_batch = lambda: [self._linked(batch) for batch in said()]  # type: ignore[method-assign]
        return part

    def _linked(self, batch: Any) -> Any:
        here = {at: self.links[at] for at in batch.rows["offset"].to_list() if at in self.links}
        return replace(batch, links=tuple(here.values()), link_offsets=tuple(here))


@dataclass
class Memory:
    """Tracing into memory."""

    tracing: Tracing
    pipeline: Pipeline
    exporter: InMemorySpanExporter

    def spans(self) -> list[dict[str, Any]]:
        """All that ended, as they would stand in a file."""
        self.pipeline.flush()
        ended: Sequence[ReadableSpan] = self.exporter.get_finished_spans()
        return [dict(plain(span)) for span in ended]


def memory(ratio: float, key: bytes = KEY, source: str = "folder", texts: bool = False) -> Memory:
    """Tracing of the small flow, into memory."""
    exporter = InMemorySpanExporter()
    made = Pipeline([exporter], 4096)
    return Memory(Spans(made, ratio, key, "test", source, MODEL, texts=texts), made, exporter)


def input_folder(folder: Path) -> Path:
    """Both keys once a second for 30 s, in windows of 10 s; at 5 s a note about her. Row 2t is hers, 2t + 1 his."""
    folder.mkdir()
    rows = [{"ts": START_S + t, "key": key, "value": t % 7} for t in range(30) for key in KEYS]
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in [*rows, {"ts": "no time"}]))
    (folder / "notes.jsonl").write_bytes(orjson.dumps({"ts": START_S + 5, "key": KEYS[0], "word": NOTE}) + b"\n")
    return folder


def run(folder: Path, store: Path, tracing: Tracing | None, links: Links | None = None) -> list[bytes]:
    """Run the small flow; gives its records, canonical, in order."""
    settings, tally = Settings(ts_unit="s", batch_rows_max=7, allowed_lateness_s=2), Tally()
    partitions = replay_partitions(DOMAIN, str(folder), None, store, settings)
    source = LinkedSource(partitions, settings, tally, speed=0, live=False)
    source.links = links or {}
    names = [(partition.name, partition.stream.name) for partition in partitions]
    gate = GateSpec(
        domain=DOMAIN,
        partitions=[name for name, _ in names],
        texts=Texts(),
        tally=tally,
        clock_ns=time.monotonic_ns,
        now=lambda: datetime.now(UTC),
        deadline_ms=1000,
        deadline_on_replay=False,
        stall_s=1,
        text_chars_max=100,
        renotify_us=10**9,
        place=from_genesis,
        tracer=tracing,
    )
    sink = StoreSink(store, DOMAIN.name, tracing=tracing)
    window = WindowStep(DOMAIN, names, tally, 30_000_000, 10_000)
    execute(build(Parts(source, sink, window, gate, settings.shards, tracing=tracing)), settings, None)
    return [canonical(record) for record in decisions(store)]
