"""The spans of a run: of its batches, of each decision that is traced, and of what is written and sent of it."""

import hmac
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from flows.connectors.outlets import Item, key_file
from flows.tracing import names, sampled
from flows.tracing.addresses import INJECTED, Place, place
from flows.tracing.export import Pipeline
from operators.adapters.messages import Linked, SourceBatch
from operators.adapters.trace import LINKS_MAX, Read
from operators.record import rfc3339
from schemas.decisions import Sealed
from schemas.reading import Abstain

KEY_BYTES = 32
WAIT_MAX_NS = 86_400 * 10**9
"""A row that came longer ago was timed by another machine's clock."""
_KINDS = {kind.name: kind for kind in SpanKind}
_SCOPES = {schema: InstrumentationScope(names.SCOPE, None, schema) for schema in names.SCHEMAS}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FINE, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_UNREAD = (Abstain.FAILED, Abstain.DEADLINE, Abstain.BUSY)
_STORE = Place(names.STORE, {}, {})
About = Mapping[str, AttributeValue]
Times = tuple[int, int]
"""From when to when, monotonic ns."""


def key_of(path: str) -> bytes:
    """The key of the hashes, from a file, or one of this process alone. Errors: UsageError."""
    return key_file(Path(path), "trace_key_file", KEY_BYTES // 2) if path else os.urandom(KEY_BYTES)


def traceparent_of(context: SpanContext) -> str:
    """W3C, to be handed on."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def context_of(traceparent: str) -> SpanContext:
    """The context that the traceparent of a sampled message names."""
    _, trace, span, _ = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), True, _SAMPLED)


class Spans:
    """Every span of a run starts here. Times are told by the clock as it was at the start.

    ratio: of the decisions without a sampled message that are traced, and of the batches without one. What has a
    sampled parent or link always is: the rule of OpenTelemetry's `ParentBased(TraceIdRatioBased(ratio))`. Spans are
    made whole, at their end, and handed to its processors: to start them with its tracer costs four times as much.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        ratio: float,
        key: bytes,
        flow: str,
        source: str,
        model: Mapping[str, str] | None = None,
        *,
        texts: bool = False,
    ) -> None:
        self._pipeline, self._texts = pipeline, texts
        self._keyed = hmac.new(key, digestmod="sha256")
        self._random = random.Random(os.urandom(16))
        self._ratio, self._bound = ratio, max(TraceIdRatioBased(ratio).bound, 2)
        self._left_out = 0
        self._is_next()  # the first one is drawn, not given
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._source = place(source)
        self._model = dict(model or {})
        self.flow = flow

    def hashed(self, identifier: str) -> str:
        """What stands for an identifier in a span: HMAC-SHA256, the first 128 bits, hex."""
        keyed = self._keyed.copy()  # `hmac.digest` lets other threads run in between: twenty times slower beside one
        keyed.update(identifier.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()[:32]

    def batch(self, batch: SourceBatch) -> None:
        """The poll that brought a batch, and its judging; in a trace of their own that links the messages."""
        timing, count = batch.timing, batch.rows.height + batch.rejects.height
        if timing is None or not count:
            return
        if not batch.links and not self._is_next():
            return
        trace_id = self._new_trace()
        topic = self._source.topic(batch.stream)
        links = [Link(context_of(link)) for link in filter(sampled, batch.links[:LINKS_MAX])]
        _, _, partition = batch.partition.partition("/")
        about: dict[str, AttributeValue] = {names.MESSAGES: count, **self._source.server}
        if partition:
            about[names.PARTITION] = partition
        if any(sign in topic for sign in "+#"):
            about[names.TEMPLATE] = topic
        about |= operation(names.POLL, self._source, topic)
        polled, times = self.context(trace_id), (timing.polled_ns, timing.judged_ns)
        self.end(names.POLL, polled, None, times, f"poll {topic}", about, links, "CLIENT")
        late = int((batch.rejects["reason"] == "late").sum())
        about |= {names.USED: batch.rows.height, names.REFUSED: batch.rejects.height - late, names.LATE: late}
        if batch.now_us is not None and abs(batch.mark_us) < 2 * batch.now_us:
            about[names.LAG] = (batch.now_us - batch.mark_us) // 1000
        about |= operation(names.PROCESS, self._source, topic)
        judged, times = self.context(trace_id), (timing.judged_ns, timing.done_ns)
        self.end(names.PROCESS, judged, polled, times, f"process {topic}", about, links, "CONSUMER")

    def decision(
        self, row: Mapping[str, Any], linked: Linked | None, arrived_ns: int, closed_ns: int
    ) -> "DecisionSpans | None":
        """As `operators.adapters.trace.Tracer`."""
        if linked is None and not self._is_next():
            return None
        contexts = [context_of(link) for link in filter(sampled, linked.traceparents)] if linked else []
        trace_id = contexts[0].trace_id if contexts else self._new_trace()
        came_ns = linked.arrived_ns if linked else arrived_ns
        if not 0 <= closed_ns - came_ns < WAIT_MAX_NS:
            came_ns = closed_ns
        return DecisionSpans(self, row, trace_id, contexts, (came_ns, closed_ns))

    def committed(self, traces: Sequence[tuple[str, str]], began_ns: int, records: int) -> None:
        """Records are in the store. traces: of those of them that are traced, hash and traceparent."""
        times = (began_ns, time.monotonic_ns())
        about = operation(names.COMMIT, _STORE, names.STORED) | {names.MESSAGES: records, names.FLOW: self.flow}
        for _, traceparent in traces:
            parent = context_of(traceparent)
            self.end(names.COMMIT, self.context(parent.trace_id), parent, times, _COMMIT, about, (), "CLIENT")

    def sender(self, address: str) -> "Sent":
        """Traces what one outlet sends."""
        return Sent(self, place(address))

    def context(self, trace_id: int) -> SpanContext:
        """The context of a new span in a trace."""
        return SpanContext(trace_id, self._random.getrandbits(64) or 1, False, _SAMPLED)

    def end(
        self,
        kind: names.Kind,
        context: SpanContext,
        parent: SpanContext | None,
        times: Times,
        name: str,
        about: About,
        links: Sequence[Link] = (),
        otel_kind: str = "INTERNAL",
    ) -> None:
        """A span, whole. It failed if it says with which error."""
        self._pipeline.end(
            ReadableSpan(
                name=name,
                context=context,
                parent=parent,
                resource=self._pipeline.resource,
                attributes={names.STEP: kind.step, **about},
                links=links,
                kind=_KINDS[otel_kind],
                status=_FAILED if names.ERROR in about else _FINE,
                start_time=times[0] + self._wall_ns,
                end_time=times[1] + self._wall_ns,
                instrumentation_scope=_SCOPES[kind.schema],
            )
        )

    def _is_next(self) -> bool:
        """Whether a sampler by ratio would take the trace that could begin here.

        How many it leaves out before it takes one is drawn at once: most decisions are not traced, and cost no more
        than to count them.
        """
        self._left_out -= 1
        if self._left_out > 0:
            return False
        odds = math.log1p(-self._ratio) if self._ratio < 1 else -math.inf
        self._left_out = 1 + int(math.log(1.0 - self._random.random()) / odds)
        return True

    def _new_trace(self) -> int:
        """The id of a trace that begins here, one of those that `TraceIdRatioBased` takes."""
        return self._random.getrandbits(64) << 64 | self._random.randrange(1, self._bound)

    def read(self, parent: SpanContext, read: Read) -> None:
        """A text was read."""
        reads = names.COMPLETE if "genai" in self._model.get("runtime", "") else names.CLASSIFY
        abstain = read.reading.abstain
        about: dict[str, AttributeValue] = {
            names.GENAI_OPERATION: reads,
            names.GENAI_PROVIDER: names.PROVIDER,
            names.LABELS: list(read.reading.labels),
        }
        if self._model:
            about |= {names.GENAI_MODEL: self._model["name"], names.MODEL_SHA256: self._model["sha256"]}
        if abstain is not None:
            about[names.ABSTAIN] = abstain.value
        if abstain in _UNREAD:
            about[names.ERROR] = abstain.value
        if self._texts:
            said = [{"role": "user", "parts": [{"type": "text", "content": read.text}]}]
            about[names.GENAI_INPUT] = orjson.dumps(said).decode()
        name = f"{reads} {self._model['name']}" if self._model else reads
        self.end(names.READ, self.context(parent.trace_id), parent, (read.began_ns, read.ended_ns), name, about)


_COMMIT = f"commit {names.STORED}"


def operation(kind: names.Kind, where: Place, topic: str) -> dict[str, AttributeValue]:
    """What every messaging span says."""
    return {
        names.SYSTEM: where.system,
        names.OPERATION: kind.step,
        names.OPERATION_TYPE: kind.of_type or "",
        names.DESTINATION: topic,
    }


class DecisionSpans:
    """The spans of one decision: its window, its gate for each revision, and what was read for it.

    Its parent is the first sampled message of its window; the others are linked. Without one, its first gate begins a
    trace of its own. times: when the first of these rows came, and when the window had closed.
    """

    def __init__(
        self, spans: Spans, row: Mapping[str, Any], trace_id: int, contexts: Sequence[SpanContext], times: Times
    ) -> None:
        self._spans, self._times, self._trace_id = spans, times, trace_id
        self._parent = contexts[0] if contexts else None
        self._links = [Link(context) for context in contexts[1:LINKS_MAX]]
        self._rows: int | None = row["rows"]
        self._window: dict[str, AttributeValue] = {
            names.FLOW: spans.flow,
            names.KEY: spans.hashed(row["key"]),
            names.WINDOW_START: rfc3339(row["start_us"]),
            names.WINDOW_END: rfc3339(row["end_us"]),
        }

    def decided(self, record: Sealed, began_ns: int, ended_ns: int, read: Read | None) -> str:
        """As `operators.adapters.trace.Trace`."""
        spans = self._spans
        gate = spans.context(self._trace_id)
        if self._rows is not None:
            window, parent = spans.context(self._trace_id), self._parent or gate
            rows = {**self._window, names.ROWS: self._rows}
            spans.end(names.WINDOW, window, parent, self._times, f"window {spans.flow}", rows, self._links)
            self._rows = None
        if read is not None:
            spans.read(gate, read)
        about = {
            **self._window,
            names.DECISION: spans.hashed(record.id),
            names.REVISION: record.revision,
            names.ACTION: record.action,
        }
        times = (began_ns, ended_ns)
        spans.end(names.GATE, gate, self._parent, times, f"gate {spans.flow}", about, self._links)
        self._parent = self._parent or gate
        return traceparent_of(gate)


class Sent:
    """The spans of what one outlet sends, and the contexts that it hands on."""

    def __init__(self, spans: Spans, where: Place) -> None:
        self._spans, self._where = spans, where
        self._kind = "PRODUCER" if where.system in INJECTED else "CLIENT"

    @contextmanager
    def sending(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The items as they are to be sent, within the sending. An error may say how many were `done`."""
        traced = {at: context_of(item.traceparent) for at, item in enumerate(items) if item.traceparent}
        if not traced:
            yield items
            return
        handed = list(items)
        contexts = {at: self._spans.context(parent.trace_id) for at, parent in traced.items()}
        for at, context in contexts.items():
            handed[at] = replace(items[at], traceparent=traceparent_of(context))
        began_ns, done, why = time.monotonic_ns(), len(items), ""
        try:
            yield handed
        except BaseException as error:
            done, why = getattr(error, "done", 0), type(error).__name__
            raise
        finally:
            times = (began_ns, time.monotonic_ns())
            for at, context in contexts.items():
                self._end(items[at], context, traced[at], times, why if at >= done else "")

    def _end(self, item: Item, context: SpanContext, parent: SpanContext, times: Times, why: str) -> None:
        topic = self._where.topic("decisions" if item.kind == "decision" else "dead_letters")
        about = {**operation(names.SEND, self._where, topic), names.REVISION: item.revision, **self._where.server}
        if why:
            about[names.ERROR] = why
        self._spans.end(names.SEND, context, parent, times, f"send {topic}", about, (), self._kind)
