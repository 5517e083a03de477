"""Recorded files as a source: a partition for each stream's file, and one for the proposals that people accepted.

A partition reads, decodes and judges its rows itself, so that a refused row still has its raw bytes at hand. What it
sends depends on its file alone. Followed files are live: arrival time is this machine's clock, and a file never ends.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import orjson

from flows.connectors.files import NOTHING, Chunk, FollowedLines, Rows, open_rows, sources
from flows.connectors.judge import Judge, Piece, codec_of, intake_of, now_us, whole
from flows.connectors.partitions import Partitions, SourcePartition
from flows.status import Status
from flows.store import accepted_settings
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from operators.columnar.checks import NO_REJECTS
from operators.columnar.codec import Codec
from operators.columnar.intake import IntakeSpec
from operators.columnar.mapping import Mapping
from operators.columnar.snapshots import pack, unpack
from operators.columnar.watermark import END, NO_MARK
from operators.domain import Domain
from schemas.errors import UsageError
from schemas.settings import Settings
from schemas.streams import Stream

log = logging.getLogger(__name__)

State = tuple[str, int, bytes | None, bytes | None, bool]
"""Version, row to read from, what the intake knows there, rows judged but not due yet, whether the file has ended."""
SNAPSHOT = "replay/1"
QUEUE = "queue/1"
ACCEPTED = "accepted"
PACED_ROWS_MAX = 500
PACE_POLL = timedelta(milliseconds=20)
LIVE_POLL = timedelta(milliseconds=200)
MAPPINGS = Path(__file__).parents[1] / "mappings"


@dataclass(frozen=True, slots=True)
class Partition:
    """One file of one stream. open: its rows from the row with that number on."""

    name: str
    stream: Stream
    codec: Codec
    intake: IntakeSpec
    open: Callable[[int], Rows]


class Pace:
    """Event time against the wall: `t` seconds after the start, rows of the first `t * speed` seconds are due."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._origin_us: int | None = None
        self._started_ns = 0

    def begin(self, first_us: int) -> None:
        """The first row of a stream of events sets the origin; later calls change nothing."""
        if self._origin_us is None:
            self._origin_us, self._started_ns = first_us, time.monotonic_ns()

    def due_us(self) -> int:
        """Event time up to which rows may go; before any, while nothing has begun."""
        if self._origin_us is None:
            return NO_MARK
        return self._origin_us + int((time.monotonic_ns() - self._started_ns) / 1000 * self._speed)


class _ReplayPartition(SourcePartition):
    def __init__(
        self,
        partition: Partition,
        rows_max: int,
        pace: Pace | None,
        live: bool,
        tally: Tally,
        resumable: bool,
        stop: threading.Event,
        status: Status,
        clock_us: Callable[[], int],
        state: State | None,
    ):
        version, offset, intake, queue, finished = state or (SNAPSHOT, 0, None, None, False)
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        self._partition, self._pace, self._live = partition, pace, live
        # Context of a bounded source is known whole before anything is decided, in whatever order its file has it.
        self._whole = partition.stream.role == "context" and not live
        self._rows_max = min(rows_max, PACED_ROWS_MAX) if pace and not self._whole else rows_max
        self._offset, self._finished = offset, finished
        self._judge = Judge(
            partition.name,
            partition.stream,
            partition.codec,
            partition.intake,
            tally,
            clock_us if live else None,
            intake,
        )
        if self._judge.notice:
            log.warning("%s: %s", partition.name, self._judge.notice)
        self._reader = partition.open(offset)
        self._queue = None if queue is None else self._unpacked(queue)  # judged, some of it not due yet
        self._said_us = NO_MARK
        self._awake: datetime | None = None
        self._resumable, self._stop, self._status = resumable, stop, status
        status.source(partition.name, True)
        if partition.name != ACCEPTED:  # people accept when they like: nothing waits for that
            status.watermark(partition.name, NO_MARK)
        if finished and not live and partition.name != ACCEPTED and self._reader.next(1) is not None:
            raise UsageError(
                f"{partition.name} has more rows than when the run with this recovery folder ended: start with a new "
                "--recovery, decisions go on in the same chains; or use --follow for files that grow"
            )

    def next_batch(self) -> Iterable[SourceBatch]:
        if self._finished or self._stop.is_set():
            raise StopIteration  # stopped, it has not finished: no window closes, and a resumed run goes on
        if self._queue is None:
            self._queue = self._read()
        batch, self._queue = self._split(self._queue)
        self._finished = batch.finished
        quiet = not batch.rows.height and not batch.rejects.height
        if self._live and quiet:
            self._awake = datetime.now(UTC) + LIVE_POLL
        elif self._queue is not None:
            self._awake = datetime.now(UTC) + PACE_POLL
        if quiet and not self._live and not batch.finished and batch.mark_us <= self._said_us:
            return []
        self._said_us = batch.mark_us
        self._status.watermark(self._partition.name, END if batch.finished else batch.mark_us)
        return [batch]

    def next_awake(self) -> datetime | None:
        awake, self._awake = self._awake, None
        return awake

    def snapshot(self) -> State:
        if not self._resumable:  # asked for at the end all the same; what is remembered need not be packed for no one
            return SNAPSHOT, self._offset, None, None, self._finished
        held, waiting = self._judge.held_offset, self._queue
        queue = None
        if waiting is not None:
            queue = pack(QUEUE, waiting.rows, mark_us=waiting.mark_us, ended=int(waiting.finished))
        return SNAPSHOT, self._offset if held is None else held, self._judge.snapshot(), queue, self._finished

    def close(self) -> None:
        self._reader.close()

    def _unpacked(self, queue: bytes) -> SourceBatch:
        rows, numbers = unpack(QUEUE, queue)
        name, stream = self._partition.name, self._partition.stream.name
        mark_us, ended = numbers["mark_us"] or 0, bool(numbers["ended"])
        return self._begun(SourceBatch(name, stream, rows, NO_REJECTS, mark_us, None, ended, time.monotonic_ns()))

    def _read(self) -> SourceBatch:
        batch = self._read_some()
        if self._whole:
            parts = [batch]
            while not parts[-1].finished:
                parts.append(self._read_some())
            batch = whole(parts)
        return self._begun(batch)

    def _begun(self, batch: SourceBatch) -> SourceBatch:
        if self._pace and self._partition.stream.role == "events" and batch.rows.height:
            self._pace.begin(int(batch.rows["event_us"][0]))
        return batch

    def _read_some(self) -> SourceBatch:
        polled_ns = time.monotonic_ns()
        chunk, first = self._reader.next(self._rows_max), self._offset
        self._offset += 0 if chunk is None else len(chunk)
        piece = Piece(chunk or NOTHING, first, header=self._reader.header, polled_ns=polled_ns)
        return self._judge.judge(piece, ended=chunk is None and not self._live)

    def _split(self, queue: SourceBatch) -> tuple[SourceBatch, SourceBatch | None]:
        """What is due now, and what has to wait."""
        if self._pace is None:
            return queue, None
        ahead = np.maximum.accumulate(queue.rows["event_us"].to_numpy()) > self._pace.due_us()
        due = int(ahead.argmax()) if ahead.any() else len(ahead)
        received_ns = time.monotonic_ns()
        if due == queue.rows.height:
            return replace(queue, received_ns=received_ns), None
        rest = queue.rows[due:]
        # What waits is known: nothing of it counts before this mark.
        mark_us = max(int(rest["event_us" if self._whole else "mark_us"][0]), self._said_us)
        now = replace(queue, rows=queue.rows[:due], mark_us=mark_us, finished=False, received_ns=received_ns)
        return now, replace(queue, rows=rest, rejects=queue.rejects.clear(), timing=None)


class _Accepted:
    """Accepted proposals as JSON lines; one row for each human action, so that their numbers are offsets."""

    header: bytes | None = None

    def __init__(self, store: Path, domain: Domain, offset: int) -> None:
        self._store, self._domain, self._offset = store, domain, offset

    def next(self, max_rows: int) -> Chunk | None:
        domain = self._domain
        key = domain.stream(domain.effects_stream).key
        rows = accepted_settings(self._store, domain.name, key, domain.effects)[self._offset :][:max_rows]
        self._offset += len(rows)
        return Chunk([orjson.dumps(row) for row in rows]) if rows else None

    def close(self) -> None:
        return None


def _open_file(path: Path, offset: int, *, live: bool) -> Rows:
    rows = FollowedLines(path) if live else open_rows(path)
    rows.skip(offset)
    return rows


def replay_partitions(
    domain: Domain, source: str, mapping_name: str | None, store: Path, settings: Settings, *, live: bool = False
) -> list[Partition]:
    """The partitions of the folder `source`, in a fixed order. live: follow JSON lines, also of files yet to come.

    Errors: UsageError where nothing can be read.
    """
    mapping = Mapping.load(mapping_name, MAPPINGS) if mapping_name else None
    layouts = mapping.streams if mapping else {}
    streams = [stream for stream in domain.streams if not mapping or stream.name in layouts]
    wanted = {stream.name: layouts[stream.name].file if mapping else None for stream in streams}
    if live:
        paths = {name: Path(source) / (file or f"{name}.jsonl") for name, file in wanted.items()}
    else:
        paths = sources(Path(source), wanted)
    partitions = []
    for name, path in paths.items():
        stream = domain.stream(name)
        rows = partial(_open_file, path, live=live)
        intake = intake_of(domain, stream, settings, mapping, live=live)
        partitions.append(Partition(name, stream, codec_of(stream, settings, mapping), intake, rows))
    return partitions + accepted_partitions(domain, store, settings, live=live)


def accepted_partitions(domain: Domain, store: Path, settings: Settings, *, live: bool) -> list[Partition]:
    """The partition of what people accepted, which every source has where a flow has effects."""
    if not domain.effects:
        return []
    stream = domain.stream(domain.effects_stream)
    codec, intake = codec_of(stream, settings, None), intake_of(domain, stream, settings, None, live=live)
    return [Partition(ACCEPTED, stream, codec, intake, partial(_Accepted, store, domain))]


class ReplaySource(Partitions):
    """All partitions of a replay. speed: times real time, 0 as fast as it goes. live: follow what is appended.

    resumable: there is a recovery store that keeps their snapshots. stop: set, the partitions end where they are.
    here: this process can read them. clock_us: when rows arrive, live.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        settings: Settings,
        tally: Tally,
        *,
        speed: float,
        live: bool,
        resumable: bool = True,
        stop: threading.Event | None = None,
        status: Status | None = None,
        here: bool = True,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        pace, stop, status = Pace(speed) if speed else None, stop or threading.Event(), status or Status()
        shared = (settings.batch_rows_max, pace, live, tally, resumable, stop, status, clock_us)
        super().__init__(
            {each.name: partial(_ReplayPartition, each, *shared) for each in partitions}, None if here else ()
        )
