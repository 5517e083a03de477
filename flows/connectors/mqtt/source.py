"""MQTT as a source: for each stream a partition, for events `mqtt_clients` of them that share what comes.

Each has a client of its own, which takes messages into a spool, and reads the spool: offsets are the spool's numbers.
The broker keeps what comes while we are away; the spool keeps what the broker has handed over and recovery may need.

How long that is: Bytewax does not say when a snapshot is safe. But it asks for a batch of an epoch only once the epochs
before that are written, so that the last snapshot but one is safe then. What the last three do not need is deleted when
the oldest of them is `mqtt_spool_keep_s` old.

The spool belongs to the recovery store, and lies in its folder. Without one nothing outlives the run.
"""

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from flows.connectors.files import Chunk
from flows.connectors.judge import Judge, Opened, Piece, codec_of, intake_of, now_us
from flows.connectors.mqtt.broker import Address, Broker
from flows.connectors.mqtt.client import Subscriber, Subscription
from flows.connectors.mqtt.spool import Message, Spool
from flows.connectors.mqtt.topics import Topics
from flows.connectors.partitions import Partitions, SourcePartition
from flows.connectors.replay import ReplaySource, accepted_partitions
from flows.status import Status
from flows.tracing import sampled
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from operators.adapters.trace import LINKS_MAX
from operators.columnar.watermark import END, NO_MARK
from operators.domain import Domain
from schemas.errors import UsageError
from schemas.settings import Settings
from schemas.streams import Stream

log = logging.getLogger(__name__)

State = tuple[str, int, bytes | None]
"""Version, number of the message to read from, what the intake knows there."""
SNAPSHOT = "mqtt/1"
STATUS = "status"
POLL = timedelta(milliseconds=20)
QUIET_S = 0.2
"""So often it is said how late it is while nothing comes."""
SNAPSHOTS_KEPT = 3
MARKS_MAX = 16


@dataclass(frozen=True, slots=True)
class Partition:
    """One client of one stream."""

    name: str
    stream: Stream
    topics: Topics
    subscription: Subscription
    folder: Path


class Passed:
    """How far snapshots have come, and below which number the spool is not needed any more.

    keep_s: how old a snapshot must be, beside having two newer ones. More than MARKS_MAX in that time are thinned out.
    """

    def __init__(self, keep_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._clock_s = keep_s, clock_s
        self._marks = deque[tuple[float, int]]()

    def note(self, offset: int) -> None:
        """A snapshot was asked for, which goes on at `offset`."""
        now_s = self._clock_s()
        if not self._marks or now_s - self._marks[-1][0] >= self._keep_s / MARKS_MAX:
            self._marks.append((now_s, offset))

    def floor(self) -> int | None:
        """Number of the first message that may still be needed; None where that has not changed."""
        floor = None
        while len(self._marks) >= SNAPSHOTS_KEPT and self._clock_s() - self._marks[0][0] >= self._keep_s:
            floor = self._marks.popleft()[1]
        return floor


class _MqttPartition(SourcePartition):
    def __init__(
        self,
        domain: Domain,
        broker: Broker,
        settings: Settings,
        tally: Tally,
        status: Status,
        stop: threading.Event,
        partition: Partition,
        state: State | None,
    ) -> None:
        version, offset, intake = state or (SNAPSHOT, -1, None)
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        self._status = status
        self._partition, self._stop, self._rows_max = partition, stop, settings.batch_rows_max
        stream = partition.stream
        self._judge = Judge(
            partition.name,
            stream,
            codec_of(stream, settings, None),
            intake_of(domain, stream, settings, None, live=True),
            tally,
            now_us,
            intake,
        )
        if self._judge.notice:
            log.warning("%s: %s", partition.name, self._judge.notice)
        self._spool = Spool(partition.folder, settings.mqtt_spool_bytes_max)
        try:
            self._offset = self._spool.first if state is None else offset
            self._spool.read(self._offset, 0)  # whether it is there
            self._client = Subscriber(broker, partition.subscription, self._spool, partition.folder, status)
        except BaseException:
            self._spool.close()
            raise
        self._status.watermark(partition.name, NO_MARK)
        self._passed = Passed(settings.mqtt_spool_keep_s)
        self._traced = bool(settings.trace_ratio)
        self._said_s = 0.0
        self._awake: datetime | None = None

    def next_batch(self) -> Iterable[SourceBatch]:
        if self._stop.is_set():
            raise StopIteration  # not finished: no window closes, and a resumed run goes on
        if self._client.failure is not None:
            raise self._client.failure
        floor = self._passed.floor()
        if floor is not None:
            self._spool.release(floor)
        messages = self._spool.read(self._offset, self._rows_max)
        if len(messages) < self._rows_max:
            self._awake = datetime.now(UTC) + POLL
        if not messages and time.monotonic() - self._said_s < QUIET_S:
            return []
        self._said_s = time.monotonic()
        lines = [self._partition.topics.line(message) for message in messages]
        found, at = links(messages, self._offset) if self._traced else ((), ())
        piece = Piece(Chunk(lines), self._offset, links=found, link_offsets=at)
        self._offset += len(messages)
        batch = self._judge.judge(piece, known_us=END if len(messages) < self._rows_max else NO_MARK)
        self._status.watermark(self._partition.name, batch.mark_us)
        return [batch]

    def next_awake(self) -> datetime | None:
        awake, self._awake = self._awake, None
        return awake

    def snapshot(self) -> State:
        held = self._judge.held_offset
        offset = self._offset if held is None else held
        self._passed.note(offset)
        return SNAPSHOT, offset, self._judge.snapshot()

    def close(self) -> None:
        self._client.close()
        self._spool.close()


def links(messages: Sequence[Message], first: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Traceparents of the first sampled messages, and their offsets."""
    found = [(message.trace, first + at) for at, message in enumerate(messages) if sampled(message.trace)]
    return tuple(trace for trace, _ in found[:LINKS_MAX]), tuple(offset for _, offset in found[:LINKS_MAX])


def mqtt_source(
    domain: Domain,
    address: str,
    settings: Settings,
    store: Path,
    tally: Tally,
    status: Status,
    stop: threading.Event,
    *,
    recovery: Path | None,
    machine: tuple[int, int] = (0, 1),
) -> Opened:
    """`mqtt://[USER@]HOST[:PORT]?STREAM=TOPICS&...[&status=TOPIC]`, see `topics`; mqtts:// with TLS.

    status: topic under which each partition says `online` or `offline`, `TOPIC/vitals/0`.
    machine: its number and how many there are, where they do not share the spool's folder.
    Errors: UsageError for what no waiting mends. A broker that cannot be reached is waited for.
    """
    parsed = Address.parse(address)
    names = [stream.name for stream in domain.streams]
    unknown = sorted(set(parsed.options) - {*names, STATUS})
    if unknown or not set(parsed.options) & set(names):
        problem = f"{unknown[0]} is no stream of the flow" if unknown else "it names no stream"
        raise UsageError(f"the source {address}: {problem}: give topics for {', '.join(names)}")
    broker = parsed.broker(settings)
    folder, close = _spool_folder(settings, recovery)
    try:
        partitions = [
            each
            for stream in domain.streams
            if stream.name in parsed.options
            for each in _partitions(domain, stream, parsed, settings, folder)
        ]
        broker.check()
    except BaseException:
        close()
        raise
    index, machines = machine
    here = [each.name for each in partitions if int(each.name.rpartition("/")[2]) % machines == index]
    accepted = accepted_partitions(domain, store, settings, live=True)
    replay = ReplaySource(
        accepted,
        settings,
        tally,
        speed=0,
        live=True,
        resumable=recovery is not None,
        stop=stop,
        status=status,
        here=index == 0,
    )
    build = {
        each.name: partial(_MqttPartition, domain, broker, settings, tally, status, stop, each) for each in partitions
    }
    listed = [(each.name, each.stream.name) for each in partitions]
    listed += [(each.name, each.stream.name) for each in accepted]
    return Opened(Partitions(build, here) | replay, listed, close=close)


def _partitions(
    domain: Domain, stream: Stream, address: Address, settings: Settings, folder: Path
) -> Iterable[Partition]:
    topics = Topics(stream, address.options[stream.name], settings.ts_unit, settings.line_bytes_max)
    clients = settings.mqtt_clients if stream.role == "events" else 1
    group = f"$share/{settings.mqtt_client_id}/" if clients > 1 else ""
    status = address.options.get(STATUS, [""])[0]
    for slot in range(clients):
        name = f"{stream.name}/{slot}"
        subscription = Subscription(
            name=name,
            client_id=f"{settings.mqtt_client_id}-{domain.name}-{stream.name}-{slot}",
            filters=tuple(group + each for each in topics.filters),
            retained=stream.role == "context",
            status_topic=f"{status}/{name}" if status else "",
            payload_bytes_max=settings.line_bytes_max,
        )
        yield Partition(name, stream, topics, subscription, folder / f"{stream.name}-{slot}")


def _spool_folder(settings: Settings, recovery: Path | None) -> tuple[Path, Callable[[], None]]:
    """Where the spool is, and how to let go of it."""
    if recovery is None:
        held = tempfile.TemporaryDirectory(prefix="tidegate-")
        return Path(held.name), held.cleanup
    return Path(settings.mqtt_spool) if settings.mqtt_spool else recovery / "mqtt", lambda: None
