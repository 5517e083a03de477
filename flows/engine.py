"""The dataflow, once for every domain: source -> shard -> window -> rule -> gate -> sink; and what runs it."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main, run_main

from flows.connectors.partitions import Partitions
from flows.connectors.sink import RecordSink
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
from schemas.errors import TidegateError
from schemas.settings import Settings

L = TypeVar("L", WindowLogic, GateLogic)
FOREVER = timedelta(days=10_000)
COLLECT_AFTER = 50_000
"""Objects made and not freed before the garbage collector looks at them."""


class PeerLost(TidegateError):
    """Another process of a cluster is gone."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dataflow is put together from.

    guard: sees what the parts raise before Bytewax does. tracing: where it is on.
    """

    source: Partitions
    sink: RecordSink
    window: WindowStep
    gate: GateSpec
    shards: int
    guard: Guard | None = None
    tracing: Tracing | None = None


def _refused(batch: SourceBatch) -> DeadLetters | None:
    if not batch.rejects.height:
        return None
    return DeadLetters(batch.partition, batch.stream, batch.rejects, batch.beside)


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


def execute(
    flow: Dataflow,
    settings: Settings,
    recovery: RecoveryConfig | None,
    addresses: Sequence[str] = (),
    index: int = 0,
) -> None:
    """Run a dataflow to its end. One worker runs in this thread: a second one that only waits costs a tenth.

    addresses: host:port of each process of a cluster, none for a single one; index: which of them this is.

    Errors: PeerLost when another process of the cluster is gone; whatever the steps raise.
    """
    # What is loaded by now stays: the collector need not walk it. Records hold no cycles, so that it finds next to
    # nothing among them; at its own pace it would look through them twenty times while one ward's windows close.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    # Bytewax asks every step for its state at the end of an epoch, also where no one keeps it.
    epoch = timedelta(seconds=settings.epoch_s) if recovery else FOREVER
    if settings.workers == 1 and not addresses:
        run_main(flow, epoch_interval=epoch, recovery_config=recovery)
        return
    try:
        cluster_main(
            flow,
            list(addresses),
            index,
            epoch_interval=epoch,
            recovery_config=recovery,
            worker_count_per_proc=settings.workers,
        )
    except BaseException as error:
        if type(error).__name__ != "PanicException" or not addresses:  # of no module that could be imported
            raise
        raise PeerLost(
            "another process of the cluster is gone, so that this one ends too: start all of them again with the same "
            "--recovery; nothing that was written is lost"
        ) from error
