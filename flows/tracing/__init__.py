"""What became of a sampled message, and what a decision came from. OpenTelemetry is loaded only where it is on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from flows.connectors.outlets import Item
from operators.adapters.messages import Linked, SourceBatch
from operators.adapters.trace import Trace
from schemas.settings import Settings


class Sender(Protocol):
    """Traces what one outlet sends."""

    def sending(self, items: Sequence[Item]) -> AbstractContextManager[Sequence[Item]]:
        """The items as they are to be sent, within the sending. An error may say how many were `done`."""


class Tracing(Protocol):
    """The spans of a run. Times are monotonic, in ns."""

    def batch(self, batch: SourceBatch) -> None:
        """The poll that brought a batch, and its judging."""

    def decision(self, row: Mapping[str, Any], linked: Linked | None, arrived_ns: int, closed_ns: int) -> Trace | None:
        """As `operators.adapters.trace.Tracer`."""

    def committed(self, traces: Sequence[tuple[str, str]], began_ns: int, records: int) -> None:
        """So many records are in the store. traces: of those of them that are traced, hash and traceparent."""

    def sender(self, address: str) -> Sender:
        """For the outlet at an address."""


@contextmanager
def traced(
    settings: Settings, flow: str, source: str, model: Mapping[str, str] | None = None
) -> Iterator[Tracing | None]:
    """The tracing of a run, None where `trace_ratio` is 0. source: its address.

    model: of the reader, `name`, `sha256` and `runtime`. At the end what is left is written, for a few seconds at most.
    Errors: UsageError where spans could go nowhere.
    """
    if not settings.trace_ratio:
        yield None
        return
    from flows.tracing.export import Pipeline, exporters
    from flows.tracing.spans import Spans, key_of

    key = key_of(settings.trace_key_file)
    pipeline = Pipeline(exporters(settings), settings.trace_queue_max)
    try:
        yield Spans(pipeline, settings.trace_ratio, key, flow, source, model, texts=settings.trace_texts)
    finally:
        pipeline.close()


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def sampled(traceparent: str | bytes | None) -> str | None:
    """A message's W3C traceparent where its sender has sampled it, else None; one that is not well formed is none."""
    if traceparent is None or len(traceparent) != 55:
        return None
    text = traceparent if isinstance(traceparent, str) else traceparent.decode("latin-1")
    return text if _TRACEPARENT.fullmatch(text) and int(text[-2:], 16) & 1 else None
