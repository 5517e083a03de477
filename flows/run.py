"""Running a flow in this process: puts source, dataflow and sink together, and sums up."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows.clock import watched_clock
from flows.connectors.judge import Opened, now_us
from flows.connectors.outlets.follower import Followers
from flows.connectors.sink import OnRecords, OnRefused, StoreSink
from flows.connectors.sqlite import SqliteStore
from flows.engine import Parts, PeerLost, build, execute
from flows.epochs import keep_together
from flows.guard import Guard, OnFault
from flows.recovery import PARTS, recovery_of_member, trouble
from flows.registry import load_flow
from flows.sources import is_live, open_source
from flows.status import Status
from flows.stopping import Stop
from flows.store.places import place_in_chain
from flows.summary import Counts, counted, summary
from flows.texts import ModelTexts
from flows.tracing import traced
from operators.adapters.gate import GateSpec
from operators.adapters.tally import Tally
from operators.adapters.window import WindowStep
from operators.domain import Domain
from operators.ledger import from_genesis
from schemas.decisions import Sealed
from schemas.errors import TidegateError, UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Which process of a cluster this is. addresses: host:port of each, none for a single one. The first holds the
    store and the recovery store.

    one_machine: the processes share their files.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0
    one_machine: bool = True


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tidegate run` was told. speed: times real time, 0 as fast as it goes; outlets: addresses of more sinks."""

    flow: str
    source: str
    sink: str
    outlets: tuple[str, ...] = ()
    model: str = "default"
    settings: Settings = field(default_factory=Settings)
    recovery: Path | None = None
    mapping: str | None = None
    follow: bool = False
    until_end: bool = False
    speed: float = 0.0
    member: Member = field(default_factory=Member)


@dataclass(kw_only=True)
class Control:
    """What a run shares with those who watch it and end it.

    on_fault: told of an error before Bytewax is. starting: called when all is well and the dataflow begins. drained:
    called when it has ended; how long the outlets may take then, in seconds. texts: the model, once there is one.
    clock_us: when rows of Kafka arrive, live; a simulated ward has a time of its own.
    """

    stop: Stop = field(default_factory=Stop)
    status: Status = field(default_factory=Status)
    tally: Tally = field(default_factory=Tally)
    on_records: OnRecords | None = None
    on_fault: OnFault | None = None
    starting: Callable[[], None] = lambda: None
    drained: Callable[[], float] = lambda: float("inf")
    texts: ModelTexts | None = None
    clock_us: Callable[[], int] = now_us

    def __post_init__(self) -> None:
        self.stop.on_ask(lambda: self.status.phase("draining"))


def sink_path(sink: str) -> Path:
    """The file behind `sink`: a path, with or without `sqlite:`. Errors: UsageError."""
    scheme, colon, rest = sink.partition(":")
    if colon and scheme != "sqlite":
        raise UsageError(f"the sink {sink} is of no known kind: give a file, for example tidegate.db")
    return Path(rest.removeprefix("//") if colon else sink)


def sinks_of(sinks: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The one store among the sinks, and the others. Errors: UsageError when there is none, or more than one."""
    stores = [sink for sink in sinks if sink.partition(":")[0] in ("sqlite", sink)]
    if not stores:
        raise UsageError("none of the sinks is a decision store, which they follow: add one, say --sink tidegate.db")
    if len(stores) > 1:
        raise UsageError(f"{', '.join(stores)} are decision stores: a run has exactly one, which other sinks follow")
    return stores[0], tuple(sink for sink in sinks if sink != stores[0])


def run_flow(options: RunOptions, on_records: OnRecords | None = None) -> dict[str, Any]:
    """Run a flow until its source ends; gives the summary. Errors: UsageError, SourceLost, SinkLost."""
    control = Control(on_records=on_records)
    counts = run_counted(options, control)
    actions = load_flow(options.flow, options.settings).actions
    return summary(counts, actions, control.status.snapshot().outlets)


def run_counted(options: RunOptions, control: Control) -> Counts:
    """Run a flow until its source ends or `control.stop` says so; gives what it counted. Errors as `run_flow`."""
    domain = load_flow(options.flow, options.settings)
    store = sink_path(options.sink)
    return run_opened(domain, partial(open_source, domain, options, store, control), store, options, control)


def run_opened(
    domain: Domain,
    source: Callable[[], Opened],
    store: Path,
    options: RunOptions,
    control: Control,
    settled: Callable[[str], bool] | None = None,
    refused: OnRefused | None = None,
) -> Counts:
    """Run a flow over what `source` opens. Errors as `run_flow`.

    settled: decisions that are left alone. refused: takes the dead letters in place of the store.
    """
    settings, member = options.settings, options.member
    _check_workers(settings, member)
    with ExitStack() as held:
        written = _written(domain, store, options)
        recovery = recovery_of_member(options.member.index, options.recovery, store, held)
        held.enter_context(watched_clock())
        texts = ModelTexts(options.model if domain.text else "none", domain.name, settings)
        held.callback(texts.close)
        control.texts = texts
        tracing = held.enter_context(traced(settings, domain.name, options.source, texts.model))
        followers = None
        if options.outlets and member.index == 0:
            followers = Followers(options.outlets, store, settings, control.status, tracing).start()
            held.callback(followers.drain, 0.0)  # where the flow fails; in order they are drained below
        started = time.monotonic(), time.process_time()
        while True:
            opened = source()
            with closing(opened):
                if recovery is not None and is_live(options) and (member.addresses or settings.workers > 1):
                    keep_together(opened.source, settings.epoch_s)
                here = member.index == 0
                wake = followers.wake if followers is not None else None
                stored = partial(_stored, control, wake)
                sink = StoreSink(store, domain.name, stored, here=here, tracing=tracing, refused=refused)
                place = partial(place_in_chain, store, domain.name) if written else from_genesis
                parts = Parts(
                    source=opened.source,
                    sink=sink,
                    window=_window(domain, opened, options, control.tally),
                    gate=replace(_gate(domain, opened, texts, control.tally, settings, place, settled), tracer=tracing),
                    shards=settings.shards,
                    guard=Guard(control.on_fault, partial(_begun, control, options), options.recovery),
                    tracing=tracing,
                )
                control.starting()
                try:
                    execute(build(parts), settings, recovery, member.addresses, member.index)
                except Exception as error:
                    ours = _ours(error, options)
                    if ours is None:
                        raise
                    raise ours from error
                why = opened.changed()
            if why is None or control.stop.asked:
                break
            if member.addresses:
                control.stop.changed = why
                break
            log.warning("%s: the flow is started again from its recovery store", why)
            control.status.forget()
        left_s = control.drained()
        if followers is not None:
            for name, behind in followers.drain(min(settings.outlet_drain_s, left_s)).items():
                log.warning("%d items still wait for the outlet %s: the next run sends them", behind, name)
        control.status.phase("ended")
        return counted(control.tally, texts, started)


def _check_workers(settings: Settings, member: Member) -> None:
    processes = max(len(member.addresses), 1)
    workers = processes * settings.workers
    if settings.shards < workers:
        raise UsageError(
            f"{processes} processes of {settings.workers} workers share {settings.shards} shards, so that some would "
            f"have nothing to do: set shards to {workers} or more (a recovery store keeps the number it began with)"
        )


def _begun(control: Control, options: RunOptions) -> None:
    control.status.phase("draining" if control.stop.asked else "running", live=is_live(options))


def _written(domain: Domain, store: Path, options: RunOptions) -> bool:
    """Whether the store holds decisions of this flow already. Opened here once, so that what is wrong is said first."""
    member = options.member
    if member.index and not member.one_machine:
        return False
    with closing(SqliteStore(store)) as opened:
        written = bool(opened.heads(domain.name))
    anew = options.recovery is None or not any(options.recovery.glob(PARTS))
    if written and anew and not member.one_machine:
        raise UsageError(
            f"{store} holds decisions already, and the other machines cannot see where their chains end: give the "
            "--recovery that belongs to it, or a new --sink"
        )
    return written


def _window(domain: Domain, opened: Opened, options: RunOptions, tally: Tally) -> WindowStep:
    settings = options.settings
    return WindowStep(
        domain=domain,
        partitions=opened.partitions,
        tally=tally,
        idle_timeout_us=int(settings.idle_timeout_s * 1e6),
        open_rows_max=settings.open_rows_max,
        # From when a window is over. Where nothing sets a pace, nobody waits for a close.
        draft_ahead_us=int(settings.allowed_lateness_s * 1e6) if options.speed or is_live(options) else 0,
    )


def _gate(
    domain: Domain,
    opened: Opened,
    texts: ModelTexts,
    tally: Tally,
    settings: Settings,
    place: Callable[[str, str], tuple[int, str]],
    settled: Callable[[str], bool] | None,
) -> GateSpec:
    return GateSpec(
        domain=domain,
        partitions=[name for name, _ in opened.partitions],
        texts=texts,
        tally=tally,
        clock_ns=time.monotonic_ns,
        now=lambda: datetime.now(UTC),
        deadline_ms=settings.reader_deadline_ms,
        deadline_on_replay=settings.reader_deadline_on_replay,
        stall_s=settings.reader_stall_s,
        text_chars_max=settings.text_chars_max,
        renotify_us=int(settings.renotify_s * 1e6),
        place=place,
        settled=settled,
    )


def _stored(control: Control, wake: Callable[[], None] | None, records: Sequence[Sealed]) -> None:
    if wake is not None:
        wake()
    control.tally.stored(Counter((record.action, record.revision) for record in records))
    if control.on_records is not None:
        control.on_records(records)


def _ours(error: Exception, options: RunOptions) -> TidegateError | None:
    """Bytewax wraps what an operator raises: our own error, where there is one inside, or what it is in our words."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TidegateError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, PeerLost | None) and options.recovery is not None and not options.member.index:
        return trouble(options.recovery, error) or cause
    return cause
