"""`tidegate bench trace`: what tracing costs where one message in a hundred is sampled, from JSON to stored decisions.

The work of `bench windows` with every check on, then its gate and its store; spans go to a local file. CPU time of the
process, its exporter's thread included; the two take turns, and the ratio is that of neighbours.
"""

import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from flows.bench.spread import spread, within
from flows.bench.windows import CheckedEvent, domain_of, events, intake_of
from flows.connectors.files import HeldLines
from flows.connectors.partitions import SourcePartition
from flows.connectors.replay import Partition, ReplaySource
from flows.connectors.sink import StoreSink
from flows.engine import Parts, build, execute
from flows.texts import ModelTexts
from flows.tracing import traced
from operators.adapters.gate import GateSpec
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from operators.adapters.trace import LINKS_MAX
from operators.adapters.window import WindowStep
from operators.columnar.codec import Codec
from operators.ledger import from_genesis
from schemas.settings import Settings

ROWS, BATCH_ROWS, ONE_IN = 50_000, 5_000, 100
PAIRS = 12
"""Pairs of runs in one repeat: short ones, so that what else the machine does meets both alike."""
LIMITS = {"trace_cost_ratio": 1.05}


class _Sampled(ReplaySource):
    """One message in a hundred brings a traceparent, as a broker's source would find it."""

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> SourcePartition:
        part = super().build_part(step_id, for_part, resume_state)
        chance = Random(5)
        offsets = sorted(chance.sample(range(ROWS), ROWS // ONE_IN))
        messages = [f"00-{chance.getrandbits(128) | 1:032x}-{chance.getrandbits(64) | 1:016x}-01" for _ in offsets]
        said: Callable[[], Any] = part.next_batch

        def linked(batch: SourceBatch) -> SourceBatch:
            if not batch.rows.height:
                return batch
            first = bisect_left(offsets, int(batch.rows["offset"][0]))
            here = slice(first, min(first + LINKS_MAX, bisect_left(offsets, int(batch.rows["offset"][-1]) + 1)))
            return replace(batch, links=tuple(messages[here]), link_offsets=tuple(offsets[here]))

        part.next_batch = lambda: [linked(batch) for batch in said()]  # type: ignore[method-assign]
        return part


def _once(lines: list[bytes], folder: Path, ratio: float) -> tuple[float, int, int]:
    """CPU seconds, decisions made, spans written."""
    folder.mkdir()
    settings = Settings(
        ts_unit="us", batch_rows_max=BATCH_ROWS, trace_ratio=ratio, trace_file=str(folder / "spans.jsonl")
    )
    domain, tally = domain_of(CheckedEvent), Tally()
    stream = domain.streams[0]
    codec = Codec(stream, ts_unit="us", line_bytes_max=settings.line_bytes_max)
    held = Partition("events", stream, codec, intake_of(domain, checked=True), partial(HeldLines, lines))
    source = (_Sampled if ratio else ReplaySource)([held], settings, tally, speed=0, live=False)
    with traced(settings, domain.name, "folder") as tracing:
        started = time.process_time()  # what a run pays once is not throughput
        gate = GateSpec(
            domain=domain,
            partitions=["events"],
            texts=ModelTexts("none", domain.name, settings),
            tally=tally,
            clock_ns=time.monotonic_ns,
            now=lambda: datetime.now(UTC),
            deadline_ms=settings.reader_deadline_ms,
            deadline_on_replay=False,
            stall_s=settings.reader_stall_s,
            text_chars_max=settings.text_chars_max,
            renotify_us=int(settings.renotify_s * 1e6),
            place=from_genesis,
            tracer=tracing,
        )
        sink = StoreSink(folder / "t.db", domain.name, tracing=tracing)
        window = WindowStep(domain, [("events", "events")], tally, 30_000_000, ROWS * 2)
        execute(build(Parts(source, sink, window, gate, 1, tracing=tracing)), settings, None)
    taken = time.process_time() - started
    return taken, tally.windows, sum(path.read_bytes().count(b"\n") for path in folder.glob("spans*"))


def measure(repeats: int, peers: bool) -> dict[str, Any]:
    """CPU time with tracing at 1 % over CPU time without."""
    lines = events(ROWS)
    taken: dict[float, list[float]] = {0.0: [], 1 / ONE_IN: []}
    spans = decisions = 0
    with tempfile.TemporaryDirectory() as name:
        _once(lines, Path(name) / "warm", 0)
        for repeat in range(repeats * PAIRS):
            for ratio in sorted(taken, reverse=bool(repeat % 2)):
                cpu_s, decisions, written = _once(lines, Path(name) / f"{repeat}-{ratio}", ratio)
                taken[ratio].append(cpu_s)
                spans = max(spans, written)
    off, on = taken.values()
    costs = [with_ / without for with_, without in zip(on, off, strict=True)]
    figures = {
        "trace_cost_ratio": spread(costs),
        "untraced_cpu_s": spread(off),
        "traced_cpu_s": spread(on),
    }
    return {
        **{name: figure["median"] for name, figure in figures.items()},
        "trace_cost_within": within(costs),
        "fastest_ratio": round(min(on) / min(off), 3),
        "spread": figures,
        "limits": LIMITS,
        "work": {"rows": ROWS, "decisions": decisions, "spans": spans, "batch_rows": BATCH_ROWS, "one_in": ONE_IN},
    }
