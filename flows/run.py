"""Running a flow in this process: puts source, dataflow and sink together, and sums up."""

import gc
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main

from flows.connectors.replay import Partition, ReplaySource, replay_partitions
from flows.connectors.sink import OnRecords, StoreSink
from flows.connectors.sqlite import SqliteStore
from flows.engine import Parts, build
from flows.registry import load_flow
from flows.store.places import place_in_chain
from flows.texts import ModelTexts
from operators.adapters.gate import GateSpec
from operators.adapters.tally import Tally
from operators.adapters.window import WindowStep
from operators.domain import Domain
from operators.ledger import from_genesis
from schemas.errors import TidegateError, UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)
FOREVER = timedelta(days=10_000)
COLLECT_AFTER = 50_000
"""Objects made and not freed before the garbage collector looks at them."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tidegate run` was told. speed: times real time, 0 as fast as it goes."""

    flow: str
    source: str
    sink: str
    model: str = "default"
    settings: Settings = field(default_factory=Settings)
    recovery: Path | None = None
    mapping: str | None = None
    follow: bool = False
    speed: float = 0.0


def sink_path(sink: str) -> Path:
    """The file behind `sink`: a path, with or without `sqlite:`. Errors: UsageError."""
    scheme, colon, rest = sink.partition(":")
    if colon and scheme != "sqlite":
        raise UsageError(f"the sink {sink} is of no known kind: give a file, for example tidegate.db")
    return Path(rest.removeprefix("//") if colon else sink)


def recovery_of(folder: Path | None) -> RecoveryConfig | None:
    """A recovery store in `folder`, made if it is not there. Errors: UsageError."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob("part-*.sqlite3")):
            # Made aside and moved in whole: a power cut in between leaves no half-made store to trip over.
            with tempfile.TemporaryDirectory(dir=folder) as aside:
                init_db_dir(Path(aside), 1)
                for part in Path(aside).iterdir():
                    part.rename(folder / part.name)
    except OSError as error:
        raise UsageError(f"the recovery folder {folder} cannot be used ({error.strerror}): check the path") from error
    return RecoveryConfig(str(folder))


def execute(flow: Dataflow, settings: Settings, recovery: RecoveryConfig | None) -> None:
    """Run a dataflow to its end. One worker runs in this thread: a second one that only waits costs a tenth."""
    # What is loaded by now stays: the collector need not walk it. Records hold no cycles, so that it finds next to
    # nothing among them; at its own pace it would look through them twenty times while one ward's windows close.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    # Bytewax asks every step for its state at the end of an epoch, also where no one keeps it.
    epoch = timedelta(seconds=settings.epoch_s) if recovery else FOREVER
    if settings.workers == 1:
        run_main(flow, epoch_interval=epoch, recovery_config=recovery)
    else:
        cluster_main(
            flow, [], 0, epoch_interval=epoch, recovery_config=recovery, worker_count_per_proc=settings.workers
        )


def run_flow(options: RunOptions, on_records: OnRecords | None = None) -> dict[str, Any]:
    """Run a flow over a replay folder until it ends; gives the summary. Errors: UsageError, SourceLost, SinkLost."""
    domain = load_flow(options.flow, options.settings)
    store = sink_path(options.sink)
    partitions = replay_partitions(
        domain, options.source, options.mapping, store, options.settings, live=options.follow
    )
    return run_partitions(domain, partitions, store, options, on_records)


def run_partitions(
    domain: Domain,
    partitions: Sequence[Partition],
    store: Path,
    options: RunOptions,
    on_records: OnRecords | None = None,
    settled: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """Run a flow over these partitions; decisions that are `settled` are left alone. Errors as `run_flow`."""
    # Opened here once, so that what is wrong with them is said before anything starts.
    with closing(SqliteStore(store)) as opened:
        begun = bool(opened.heads(domain.name))
    for partition in partitions:
        partition.open(0).close()
    settings, tally = options.settings, Tally()
    texts = ModelTexts(options.model if domain.text else "none", domain.name, settings)
    parts = Parts(
        source=ReplaySource(
            partitions,
            settings,
            tally,
            speed=options.speed,
            live=options.follow,
            resumable=options.recovery is not None,
        ),
        sink=StoreSink(store, domain.name, on_records),
        window=WindowStep(
            domain=domain,
            partitions=[(partition.name, partition.stream.name) for partition in partitions],
            tally=tally,
            idle_timeout_us=int(settings.idle_timeout_s * 1e6),
            open_rows_max=settings.open_rows_max,
            # From when a window is over. Where nothing sets a pace, nobody waits for a close.
            draft_ahead_us=int(settings.allowed_lateness_s * 1e6) if options.speed or options.follow else 0,
        ),
        gate=GateSpec(
            domain=domain,
            partitions=[partition.name for partition in partitions],
            texts=texts,
            tally=tally,
            clock_ns=time.monotonic_ns,
            now=lambda: datetime.now(UTC),
            deadline_ms=settings.reader_deadline_ms,
            deadline_on_replay=settings.reader_deadline_on_replay,
            stall_s=settings.reader_stall_s,
            text_chars_max=settings.text_chars_max,
            renotify_us=int(settings.renotify_s * 1e6),
            place=partial(place_in_chain, store, domain.name) if begun else from_genesis,
            settled=settled,
        ),
        shards=settings.shards,
    )
    started = time.monotonic(), time.process_time()
    try:
        execute(build(parts), settings, recovery_of(options.recovery))
    except Exception as error:
        ours = _ours(error)
        if ours is None:
            raise
        raise ours from error
    finally:
        texts.close()
    return summary(tally, texts, started, domain.actions)


def _ours(error: Exception) -> TidegateError | None:
    """Bytewax wraps what an operator raises; our own error, where there is one inside."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TidegateError):
        cause = cause.__cause__ or cause.__context__
    return cause


def summary(tally: Tally, texts: ModelTexts, started: tuple[float, float], actions: Sequence[str]) -> dict[str, Any]:
    """What the run did, as `--summary` writes it."""
    rows = {way: tally.rows[way] for way in ("used", "late", "rejected", "duplicate")}
    pool = texts.pool
    return {
        "rows": {"in": sum(rows.values()), **rows},
        "rejected": dict(sorted(tally.rejected.items())),
        "windows": tally.windows,
        "decisions": {action: tally.decisions[action] for action in actions},
        "model": {
            "calls": pool.calls if pool else 0,
            "cached": tally.cached + (pool.cached if pool else 0),
            "abstained": tally.abstained,
        },
        "latency_ms": {"p50": tally.latency_ms(0.5), "p99": tally.latency_ms(0.99)},
        "wall_s": round(time.monotonic() - started[0], 3),
        "cpu_s": round(time.process_time() - started[1], 3),
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
