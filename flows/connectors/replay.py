"""Recorded files as a source: a partition for each stream's file, and one for the proposals that people accepted.

A partition reads, decodes and judges its rows itself, so that a refused row still has its raw bytes at hand. What it
sends depends on its file alone. Followed files are live: arrival time is this machine's clock, and a file never ends.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import polars as pl
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from numpy.typing import NDArray

from flows.connectors.files import FollowedLines, Rows, open_rows, sources
from flows.store import accepted_settings
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from operators.columnar.checks import NO_REJECTS
from operators.columnar.codec import Codec, as_json
from operators.columnar.intake import Intake, IntakeSpec
from operators.columnar.mapping import Mapping
from operators.columnar.snapshots import pack, unpack
from operators.columnar.watermark import NO_MARK
from operators.columnar.windows import late_before_us
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
FAR_US = 2**55  # a thousand years
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


class _ReplayPartition(StatefulSourcePartition[SourceBatch, State]):
    def __init__(
        self,
        partition: Partition,
        rows_max: int,
        pace: Pace | None,
        live: bool,
        tally: Tally,
        state: State | None,
        resumable: bool,
    ):
        version, offset, intake, queue, finished = state or (SNAPSHOT, 0, None, None, False)
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        self._partition, self._pace, self._live, self._tally = partition, pace, live, tally
        # Context of a bounded source is known whole before anything is decided, in whatever order its file has it.
        self._whole = partition.stream.role == "context" and not live
        self._rows_max = min(rows_max, PACED_ROWS_MAX) if pace and not self._whole else rows_max
        self._offset, self._finished = offset, finished
        self._intake = Intake(partition.intake, intake)
        if self._intake.notice:
            log.warning("%s: %s", partition.name, self._intake.notice)
        self._reader = partition.open(offset)
        self._queue = None if queue is None else self._unpacked(queue)  # judged, some of it not due yet
        self._said_us = NO_MARK
        self._awake: datetime | None = None
        self._resumable = resumable
        if finished and not live and partition.name != ACCEPTED and self._reader.next(1) is not None:
            raise UsageError(
                f"{partition.name} has more rows than when the run with this recovery folder ended: start with a new "
                "--recovery, decisions go on in the same chains; or use --follow for files that grow"
            )

    def next_batch(self) -> Iterable[SourceBatch]:
        if self._finished:
            raise StopIteration
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
        return [batch]

    def next_awake(self) -> datetime | None:
        awake, self._awake = self._awake, None
        return awake

    def snapshot(self) -> State:
        if not self._resumable:  # asked for at the end all the same; what is remembered need not be packed for no one
            return SNAPSHOT, self._offset, None, None, self._finished
        held, waiting = self._intake.held_offset, self._queue
        queue = None
        if waiting is not None:
            queue = pack(QUEUE, waiting.rows, mark_us=waiting.mark_us, ended=int(waiting.finished))
        return SNAPSHOT, self._offset if held is None else held, self._intake.snapshot(), queue, self._finished

    def close(self) -> None:
        self._reader.close()

    def _unpacked(self, queue: bytes) -> SourceBatch:
        rows, numbers = unpack(QUEUE, queue)
        return self._batch(rows, NO_REJECTS, numbers["mark_us"] or 0, bool(numbers["ended"]), None)

    def _batch(
        self, rows: pl.DataFrame, rejects: pl.DataFrame, mark_us: int, ended: bool, now_us: int | None
    ) -> SourceBatch:
        name, stream = self._partition.name, self._partition.stream
        if self._pace and stream.role == "events" and rows.height:
            self._pace.begin(int(rows["event_us"][0]))
        return SourceBatch(name, stream.name, rows, rejects, mark_us, now_us, ended, time.monotonic_ns())

    def _read(self) -> SourceBatch:
        batch = self._read_some()
        if self._whole:
            parts = [batch]
            while not parts[-1].finished:
                parts.append(self._read_some())
            rows = pl.concat([part.rows for part in parts]).sort("event_us", maintain_order=True)
            batch = replace(parts[-1], rows=rows, rejects=pl.concat([part.rejects for part in parts]))
        return batch

    def _read_some(self) -> SourceBatch:
        first = self._offset
        chunk = self._reader.next(self._rows_max)
        codec, ended = self._partition.codec, chunk is None and not self._live
        decoded = (
            codec.decode_frame(chunk, first)
            if isinstance(chunk, pl.DataFrame)
            else codec.decode_lines(chunk or [], first)
        )
        self._offset += 0 if chunk is None else len(chunk)
        now_us = time.time_ns() // 1000 if self._live else None
        admitted = self._intake.admit(decoded.rows, lambda offsets: _raw(chunk, offsets - first), now_us, ended)
        some = [rejects for rejects in (decoded.rejects, admitted.rejects) if rejects.height]
        rejects = pl.concat(some) if some else NO_REJECTS
        self._tally.admitted(
            used=admitted.rows.height + decoded.checked,
            duplicate=admitted.duplicates,
            rejected=dict(rejects["reason"].value_counts().iter_rows()) if rejects.height else {},
        )
        rows, mark_us = admitted.rows, admitted.mark_us
        if now_us is not None and self._partition.stream.role == "context":
            # Live, notes are rare and must hold no decision back: what has not come by now counts from when it comes.
            rows = rows.with_columns(pl.max_horizontal("mark_us", pl.lit(self._said_us)).alias("mark_us"))
            mark_us = max(mark_us, now_us - self._partition.intake.wait_us)
        return self._batch(rows, rejects, mark_us, ended, now_us)

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
        return now, replace(queue, rows=rest, rejects=queue.rejects.clear())


class _Accepted:
    """Accepted proposals as JSON lines; one row for each human action, so that their numbers are offsets."""

    def __init__(self, store: Path, domain: Domain, offset: int) -> None:
        self._store, self._domain, self._offset = store, domain, offset

    def next(self, max_rows: int) -> list[bytes] | None:
        domain = self._domain
        key = domain.stream(domain.effects_stream).key
        rows = accepted_settings(self._store, domain.name, key, domain.effects)[self._offset :][:max_rows]
        self._offset += len(rows)
        return [orjson.dumps(row) for row in rows] or None

    def close(self) -> None:
        return None


def _raw(chunk: list[bytes] | pl.DataFrame | None, rows: NDArray[np.int64]) -> list[bytes]:
    if chunk is None:
        return []
    return [as_json(chunk, row) if isinstance(chunk, pl.DataFrame) else chunk[row] for row in rows.tolist()]


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
        stream, per_key = domain.stream(name), bool(mapping) and layouts[name].time == "key"
        rows = partial(_open_file, path, live=live)
        intake = intake_of(domain, stream, settings, per_key_time=per_key, live=live)
        partitions.append(Partition(name, stream, codec_of(stream, settings, mapping), intake, rows))
    if domain.effects:
        stream = domain.stream(domain.effects_stream)
        spec = intake_of(domain, stream, settings, live=live)
        partitions.append(
            Partition(ACCEPTED, stream, codec_of(stream, settings, None), spec, partial(_Accepted, store, domain))
        )
    return partitions


def codec_of(stream: Stream, settings: Settings, mapping: Mapping | None) -> Codec:
    """The decoder of a stream under these settings. Errors: UsageError for a mapping that does not fit."""
    return Codec(stream, ts_unit=settings.ts_unit, line_bytes_max=settings.line_bytes_max, mapping=mapping)


def intake_of(
    domain: Domain, stream: Stream, settings: Settings, *, per_key_time: bool = False, live: bool = False
) -> IntakeSpec:
    """How rows of a stream are judged under these settings.

    Context of a bounded source needs no watermark and no guard: each row counts from its own time on, wherever it
    stands in its file, and one that is dated too far ahead reaches no window.
    """
    whole = stream.role == "context" and not live
    return IntakeSpec(
        role=stream.role,
        wait_us=FAR_US if whole else int(settings.allowed_lateness_s * 1e6),
        max_future_us=FAR_US if whole else int(settings.max_future_s * 1e6),
        lookahead_rows=settings.future_lookahead_rows,
        dedupe_horizon_us=int(settings.dedupe_horizon_s * 1e6),
        seq=stream.seq,
        per_key_time=per_key_time,
        late_before=partial(late_before_us, spec=domain.window) if stream.role == "events" else None,
    )


class ReplaySource(FixedPartitionedSource[SourceBatch, State]):
    """All partitions of a replay. speed: times real time, 0 as fast as it goes. live: follow what is appended.

    resumable: there is a recovery store that keeps their snapshots.
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
    ) -> None:
        self._partitions = {partition.name: partition for partition in partitions}
        self._settings, self._tally, self._live = settings, tally, live
        self._pace = Pace(speed) if speed else None
        self._resumable = resumable

    def list_parts(self) -> list[str]:
        return list(self._partitions)

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> _ReplayPartition:
        partition = self._partitions[for_part]
        rows_max = self._settings.batch_rows_max
        return _ReplayPartition(partition, rows_max, self._pace, self._live, self._tally, resume_state, self._resumable)
