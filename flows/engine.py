"""The dataflow, once for every domain: source -> shard -> window -> rule -> gate -> sink, dead letters beside it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.outputs import Sink

from flows.connectors.partitions import Partitions
from flows.guard import Guard
from flows.tracing import Tracing
from operators.adapters import steps
from operators.adapters.gate import GateLogic, GateSpec
from operators.adapters.messages import DeadLetters, Decided, Draft, SourceBatch, Windowed
from operators.adapters.window import WindowLogic, WindowStep
from operators.columnar.checks import NO_REJECTS
from operators.columnar.shard import split_by_shard
from operators.domain import Domain
from operators.record import with_digests

L = TypeVar("L", WindowLogic, GateLogic)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dataflow is put together from.

    guard: sees what the parts raise before Bytewax does. tracing: where it is on.
    """

    source: Partitions
    sink: Sink[tuple[str, Decided | DeadLetters]]
    window: WindowStep
    gate: GateSpec
    shards: int
    guard: Guard | None = None
    tracing: Tracing | None = None


def _refused(batch: SourceBatch) -> DeadLetters | None:
    if not batch.rejects.height:
        return None
    return DeadLetters(batch.partition, batch.stream, batch.rejects, batch.header)


def _to_shards(batch: SourceBatch, parts: Parts) -> Iterable[tuple[str, SourceBatch]]:
    if parts.tracing is not None:
        parts.tracing.batch(batch)
    # Every shard hears of every batch, rows or none: its watermark has to move too.
    bare = replace(batch, rejects=NO_REJECTS)
    for shard, rows in enumerate(split_by_shard(batch.rows, parts.shards)):
        yield steps.shard_key(shard), replace(bare, rows=rows)


def _ruled(item: tuple[str, Windowed | Draft | DeadLetters], domain: Domain) -> tuple[str, Windowed | Draft] | None:
    shard, windows = item
    if isinstance(windows, DeadLetters):
        return None
    if windows.frame is None:
        return shard, windows
    return shard, replace(windows, frame=domain.rule(with_digests(windows.frame, domain)))


def _late(item: tuple[str, Windowed | Draft | DeadLetters]) -> DeadLetters | None:
    return item[1] if isinstance(item[1], DeadLetters) else None


def _logic(parts: Parts, build: Callable[[Any], L], snapshot: Any) -> L:
    return build(snapshot) if parts.guard is None else parts.guard.logic(build, snapshot)


def build(parts: Parts) -> Dataflow:
    """The dataflow over `parts`; step ids come from `steps` and are persisted."""
    domain = parts.window.domain
    if parts.guard is not None:
        parts.guard.source(parts.source)
        parts.guard.sink(parts.sink)
    flow = Dataflow(steps.FLOW)
    batches = op.input(steps.SOURCE, flow, parts.source)
    refused = op.filter_map(steps.DEAD_LETTERS, batches, _refused)
    sharded = op.flat_map(steps.SHARD, batches, lambda batch: _to_shards(batch, parts))
    windowed = op.stateful_batch(steps.WINDOW, sharded, partial(_logic, parts, partial(WindowLogic, parts.window)))
    late = op.filter_map(steps.LATE, windowed, _late)
    ruled = op.filter_map(steps.RULE, windowed, lambda item: _ruled(item, domain))
    decided = op.stateful_batch(steps.GATE, ruled, partial(_logic, parts, partial(GateLogic, parts.gate)))
    results: Stream[Decided | DeadLetters] = op.merge(steps.MERGE, op.key_rm(steps.UNKEY, decided), late, refused)
    op.output(steps.SINK, op.map(steps.TO_SINK, results, lambda result: (steps.SINK_KEY, result)), parts.sink)
    return flow
