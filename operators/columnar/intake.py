"""The intake of one source partition: future guard, duplicates, lateness, in this order. Every row has a named way out:

rows in == rows admitted + rejects ('future', 'late') + duplicates (counted only) + rows held until they can be judged.
What happens to a row never depends on how the rows were cut into batches (live, it depends on `now_us` too).
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from operators.columnar.checks import NO_REJECTS, REJECTS
from operators.columnar.watermark import NO_MARK, FutureGuard, Judged, running_mark, running_mark_by_key
from schemas.errors import UsageError

Times = NDArray[np.int64]
RawRows = Callable[[Times], Sequence[bytes]]
"""Offsets (m,) of rows given with it -> their original bytes (m), asked only for rejected rows."""

_STATE_VERSION = 1
_IDENTITY_VERSION = f"1 polars {pl.__version__}"  # Polars hashes strings alike only within one version
_NULL = -(2**63)
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class IntakeSpec:
    """What a partition's rows are judged by. Errors: ValueError when an `events` stream cannot tell what is late.

    late_before: event times (n,) -> for each the mark at which the last window that could hold it closes.
    per_key_time: time runs per key (archives): no future guard, a watermark for each key, none for the partition.
    remembered_rows: an identity not seen for this many rows of its partition is forgotten, whatever its age; rows that
    the future guard refused are not among them.
    """

    role: Literal["events", "context"]
    wait_us: int
    max_future_us: int
    lookahead_rows: int
    dedupe_horizon_us: int
    seq: str | None = None
    per_key_time: bool = False
    late_before: Callable[[Times], Times] | None = None
    remembered_rows: int = 1_000_000

    def __post_init__(self) -> None:
        if self.role == "events" and self.late_before is None:
            raise ValueError("a stream of events needs late_before, or no row of it could be late")


@dataclass(frozen=True, slots=True)
class Admitted:
    """rows: as given, with `mark_us`; rejects: columns `checks.REJECTS`, by offset; mark_us: the mark after them."""

    rows: pl.DataFrame
    rejects: pl.DataFrame
    duplicates: int
    mark_us: int


class Intake:
    """Admits batches of one partition. `state` is what `snapshot` gave, None at the start.

    notice: one sentence for the log where something of the state could not be used, else None.
    """

    def __init__(self, spec: IntakeSpec, state: bytes | None = None) -> None:
        self.notice: str | None = None
        head, entries = _load(state) if state is not None else (None, Seen.EMPTY)
        if head and head["identity"] != _IDENTITY_VERSION:
            self.notice = (
                "rows remembered against duplicates were hashed by another version and are forgotten: copies of rows "
                f"from before this start pass once (state: {head['identity']}, here: {_IDENTITY_VERSION})"
            )
            entries = Seen.EMPTY
        self._spec = spec
        self._mark_us: int = head["mark_us"] if head else NO_MARK
        self._key_marks_us: dict[str, int] = head["key_marks_us"] if head else {}
        self._accepted: int = head["accepted"] if head else 0  # by the guard, whatever became of them after
        self._first_us: int = head["first_us"] if head else NO_MARK
        self._guard = FutureGuard(spec.max_future_us, spec.lookahead_rows, head["refused_us"] if head else None)
        self._seen = Seen(spec.dedupe_horizon_us, spec.remembered_rows, entries, head["offset"] if head else -1)
        self._held: list[tuple[pl.DataFrame, RawRows]] = []  # begins with a suspect that waits for its witnesses

    @property
    def held_offset(self) -> int | None:
        """Offset of the first held row: a resume with this state must read again from there. None: nothing is held."""
        return int(self._held[0][0]["offset"][0]) if self._held else None

    def admit(self, rows: pl.DataFrame, raw: RawRows, now_us: int | None, last: bool) -> Admitted:
        """Judge the held rows and `rows` (key, event_us, offset, fields; offsets increase).

        now_us: the machine's time, None in a replay, where rows from the first undecided suspect on are held until
        `lookahead_rows` more have come or `last` says that the partition ends here.
        """
        waiting = bool(self._held)
        if len(rows):
            self._held.append((rows, raw))
        count = sum(len(part) for part, _ in self._held)
        if not count or (waiting and now_us is None and not last and count <= self._spec.lookahead_rows):
            nothing = rows.clear().hstack([pl.Series("mark_us", [], pl.Int64)])
            return Admitted(nothing, NO_REJECTS, 0, self._mark_us)
        frame = self._held[0][0] if len(self._held) == 1 else pl.concat([part for part, _ in self._held], rechunk=True)
        judged = self._judge(frame, now_us, last)
        decided = frame.head(judged.decided)
        rejects = self._rejects(decided, judged.future, "future", judged.details)
        if len(judged.future):
            decided = decided.filter(_without(len(decided), judged.future))
        event_us = decided["event_us"].to_numpy()
        if len(decided):
            self._first_us = int(event_us[0]) if self._first_us == NO_MARK else self._first_us
            self._accepted += len(decided)
        marks_us = self._advance(decided, event_us)
        copies = self._copies(decided, event_us, marks_us)
        admitted = decided.hstack([pl.Series("mark_us", marks_us)])  # unlike with_columns, without the query engine
        late = np.zeros(len(decided), np.bool_)
        if self._spec.role == "events" and self._spec.late_before is not None:
            closed_us = self._spec.late_before(event_us)
            late = (closed_us <= marks_us) & ~copies
            at = np.flatnonzero(late)
            if len(at):
                rejects = pl.concat(
                    [rejects, self._rejects(decided, at, "late", _late_details(marks_us[at], closed_us[at]))]
                )
        kept = ~(copies | late)
        admitted = admitted if kept.all() else admitted.filter(pl.Series(kept))
        self._hold_from(judged.decided)
        rejects = rejects.sort("offset") if len(rejects) else rejects
        return Admitted(admitted, rejects, int(copies.sum()), self._mark_us)

    def snapshot(self) -> bytes:
        """State as of the first held row (or after the last row given): the same bytes however the rows were cut."""
        entries = self._seen.live(self._floor_us())
        entries = entries[np.argsort(entries[:, 0])]
        head = {
            "version": _STATE_VERSION,
            "identity": _IDENTITY_VERSION,
            "mark_us": self._mark_us,
            "key_marks_us": self._key_marks_us,
            "refused_us": self._guard.refused(),
            "offset": self._seen.place,
            "accepted": self._accepted,
            "first_us": self._first_us,
        }
        return b"".join((orjson.dumps(head), b"\n", entries.astype("<i8", copy=False).data))

    def _judge(self, frame: pl.DataFrame, now_us: int | None, last: bool) -> Judged:
        if self._spec.per_key_time:
            return Judged(len(frame))
        event_us = frame["event_us"].to_numpy()
        if now_us is not None:
            return self._guard.judge_live(event_us, now_us)
        newest_us = NO_MARK if self._mark_us == NO_MARK else self._mark_us + self._spec.wait_us
        return self._guard.judge_replay(frame["key"], event_us, newest_us, last, self._accepted, self._first_us)

    def _advance(self, rows: pl.DataFrame, event_us: Times) -> Times:
        if not self._spec.per_key_time:
            marks_us, self._mark_us = running_mark(event_us, self._spec.wait_us, self._mark_us)
            return marks_us
        marks_us, after = running_mark_by_key(rows["key"], event_us, self._spec.wait_us, self._key_marks_us)
        self._key_marks_us |= after
        return marks_us

    def _copies(self, rows: pl.DataFrame, event_us: Times, marks_us: Times) -> NDArray[np.bool_]:
        if not self._spec.dedupe_horizon_us or not len(rows):
            return np.zeros(len(rows), np.bool_)
        floor_us = self._floor_us() if self._spec.per_key_time else int(marks_us[0]) - self._spec.dedupe_horizon_us
        identity = identities(rows, self._spec.seq)
        # Counted here, for offsets may have gaps, and what is remembered is bounded in rows.
        places = np.arange(self._seen.place + 1, self._seen.place + 1 + len(rows))
        return self._seen.repeats(identity, event_us, places, marks_us, floor_us)

    def _floor_us(self) -> int:
        """Event time below which nothing remembered can matter any more; with time per key there is none."""
        return self._mark_us - self._spec.dedupe_horizon_us

    def _rejects(self, rows: pl.DataFrame, at: Times, reason: str, details: Sequence[str]) -> pl.DataFrame:
        if not len(at):
            return NO_REJECTS
        offsets = rows["offset"].to_numpy()[at]
        raw: list[bytes] = []
        for part, raw_of in self._held:
            here = offsets[(offsets >= part["offset"][0]) & (offsets <= part["offset"][-1])]
            raw += raw_of(here) if len(here) else ()
        return pl.DataFrame({"offset": offsets, "reason": reason, "detail": details, "raw": raw}, REJECTS)

    def _hold_from(self, row: int) -> None:
        held: list[tuple[pl.DataFrame, RawRows]] = []
        for part, raw in self._held:
            if row < len(part):
                held.append((part.slice(row), raw))
            row = max(0, row - len(part))
        self._held = held


class Seen:
    """The identities of a bounded stretch of event time, with the newest event time and the last place of each.

    They stand one after another, 24 bytes each. An open-addressed hash table, at most half full and probed for a whole
    batch at once, holds their numbers, 4 bytes a slot; 0 is a free slot.
    """

    EMPTY: NDArray[np.int64] = np.empty((0, 3), np.int64)

    def __init__(self, horizon_us: int, rows_max: int, entries: NDArray[np.int64], place: int) -> None:
        self.place = place  # of the last row seen, among all that were asked about
        self._horizon_us = horizon_us
        self._rows_max = rows_max
        self._fill(
            np.ascontiguousarray(entries[:, 0]).view(np.uint64), entries[:, 1:], np.ones(len(entries), np.bool_), 0
        )

    def live(self, floor_us: int) -> NDArray[np.int64]:
        """(m, 3): hash, newest event time, last place of what still matters at this floor."""
        live, identity, last = self._live(floor_us), *self._entries()
        return np.column_stack([identity[live].view(np.int64), last[live]])

    def repeats(
        self, identity: NDArray[np.uint64], event_us: Times, place: Times, marks_us: Times, floor_us: int
    ) -> NDArray[np.bool_]:
        """Which rows (n,) repeat an earlier one, and remember them all.

        A row repeats when the newest event time seen with its identity lies within the horizon of the row's own, and no
        further than the horizon behind the row's mark. floor_us: nothing older will ever be asked for.
        """
        if 2 * (self._used + len(identity)) > len(self._table):
            self._fill(*self._entries(), self._live(floor_us), len(identity))
        numbers, known = self._numbers(identity)
        newest_us, seen_at = self._last.take(numbers, axis=0).T
        known &= place - seen_at <= self._rows_max
        self._last[numbers, 1] = place
        self.place = int(place[-1])
        overtaken = np.flatnonzero(self._last[numbers, 1] != place)
        if len(overtaken):
            self._last[numbers[overtaken], 1] = -1
            self._follow(np.flatnonzero(self._last[numbers, 1] < 0), numbers, event_us, place, known, newest_us)
            self._last[numbers, 1] = place
        self._last[numbers, 0] = np.where(known, np.maximum(event_us, newest_us), event_us)
        known &= np.abs(event_us - newest_us) <= self._horizon_us
        known &= newest_us >= marks_us - self._horizon_us
        return known

    def _entries(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        return self._identity[1 : self._used + 1], self._last[1 : self._used + 1]

    def _live(self, floor_us: int) -> NDArray[np.bool_]:
        _, last = self._entries()
        return (last[:, 0] >= floor_us) & (last[:, 1] > self.place - self._rows_max)

    def _follow(
        self, rows: Times, numbers: Times, event_us: Times, place: Times, known: NDArray[np.bool_], newest_us: Times
    ) -> None:
        """Rows of one batch that share an identity see each other in turn: mends `known` and `newest_us` in place."""
        latest: dict[int, tuple[int, int]] = {}
        columns = (rows, numbers[rows], event_us[rows], place[rows])
        for row, number, at_us, at in zip(*(column.tolist() for column in columns), strict=True):
            if number in latest:
                newest_us[row], seen_at = latest[number]
                known[row] = at - seen_at <= self._rows_max
            latest[number] = (max(at_us, int(newest_us[row])) if known[row] else at_us, at)

    def _fill(self, identity: NDArray[np.uint64], last: NDArray[np.int64], live: NDArray[np.bool_], room: int) -> None:
        held = int(np.count_nonzero(live))
        bits = max(10, max(3 * held, 2 * (held + room)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._table = _own_pages(1 << bits, np.dtype(np.int32))
        self._identity = _own_pages((1 << bits) // 2 + 1, np.dtype(np.uint64))  # number 0 is no one's
        self._last = _own_pages(2 * len(self._identity), np.dtype(np.int64)).reshape(-1, 2)  # event time, place
        self._used = 0
        for start in range(0, len(live), _AT_ONCE):  # all at once they would need as much again, and stay in no cache
            part = slice(start, start + _AT_ONCE)
            numbers, _ = self._numbers(identity[part][live[part]])
            self._last[numbers] = last[part][live[part]]

    def _numbers(self, identity: NDArray[np.uint64]) -> tuple[Times, NDArray[np.bool_]]:
        """Number of each identity (n,), new ones added; and whether it was there before. Triangular probing."""
        numbers, known = np.zeros(len(identity), np.int64), np.zeros(len(identity), np.bool_)
        rows, wanted, at, step = np.arange(len(identity)), identity, (identity >> self._shift).view(np.int64), 0
        while len(rows):
            held = self._table.take(at)
            found = self._identity.take(held)
            known[rows] = found == wanted
            free = np.flatnonzero(held == 0)
            if len(free):
                held[free] = self._claim(at[free], wanted[free])
                found[free] = self._identity.take(held[free])
            numbers[rows] = held
            lost = np.flatnonzero(found != wanted)
            rows, wanted, at, step = rows[lost], wanted[lost], at[lost], step + 1
            at = (at + step) & (len(self._table) - 1)
        return numbers, known

    def _claim(self, slots: Times, wanted: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Numbers in free slots (m,), some of them wanted twice: a slot goes to one of those who want it."""
        turn = np.arange(1, len(slots) + 1, dtype=np.int32)
        self._table[slots] = turn
        winners = np.flatnonzero(self._table.take(slots) == turn)
        added = slice(self._used + 1, self._used + 1 + len(winners))
        self._table[slots[winners]] = np.arange(added.start, added.stop)
        self._identity[added] = wanted[winners]
        self._used += len(winners)
        return self._table.take(slots)


def _own_pages(length: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Zeros in pages of their own: they take memory where something is written, and give it back when let go of.

    What numpy allocates leaves a hole in the heap as large as the table that has just become too small.
    """
    return np.frombuffer(mmap.mmap(-1, length * kind.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), kind)


def identities(rows: pl.DataFrame, seq: str | None) -> NDArray[np.uint64]:
    """Identity of each row (n,), never 0: its key and `seq` where there is one, else key, event time and all fields."""
    numbers = rows[seq] if seq is not None and seq in rows.columns else None
    # A device may number messages and send each measure in a row of its own: what a row holds tells those apart.
    by_number = None if numbers is None else _mixed([rows["key"], numbers, _held(rows)], 1)
    if by_number is not None and numbers is not None and not numbers.null_count():
        return by_number
    content = _mixed([column for column in rows if column.name != "offset"], 2)
    if by_number is None or numbers is None:
        return content
    return np.where(numbers.is_null().to_numpy(), content, by_number)


def _held(rows: pl.DataFrame) -> pl.Series:
    """Which fields a row has, one bit for each, (n,)."""
    bits = [
        pl.col(column.name).is_null().cast(pl.Int64) * 2 ** (place % 62)  # by place, whatever else is in the batch
        for place, column in enumerate(rows.get_columns())
        if column.null_count()
    ]
    if not bits:
        return pl.Series("held", np.zeros(len(rows), np.int64))
    return rows.select(pl.sum_horizontal(bits).alias("held")).to_series()


def _mixed(columns: Sequence[pl.Series], seed: int) -> NDArray[np.uint64]:
    """One 64-bit hash for each row: multiply and xor-shift for each column, the finalizer of MurmurHash3 at the end."""
    mixed = np.full(len(columns[0]), seed, np.uint64)
    for column in columns:
        mixed ^= _bits(column)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return np.maximum(mixed, np.uint64(1))


def _bits(column: pl.Series) -> NDArray[np.uint64]:
    if column.dtype == pl.Float64:
        return column.to_numpy().view(np.uint64)  # null reads as NaN, which no checked row holds
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int64)
    if column.dtype == pl.Int64:
        whole = column.fill_null(_NULL) if column.null_count() else column
        return whole.to_numpy().view(np.uint64)
    return column.hash(0).to_numpy()


def _without(count: int, positions: Times) -> pl.Series:
    kept = np.ones(count, np.bool_)
    kept[positions] = False
    return pl.Series(kept)


def _late_details(marks_us: Times, closed_us: Times) -> list[str]:
    by_ms = (marks_us - closed_us) // 1000
    closed = pl.Series(closed_us).cast(pl.Datetime("us")).dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ")
    return [
        f"late by {ms // 1000}.{ms % 1000:03} s: its window closed at {at}"
        for ms, at in zip(by_ms.tolist(), closed, strict=True)
    ]


def _load(state: bytes) -> tuple[dict[str, Any], NDArray[np.int64]]:
    line, _, body = state.partition(b"\n")
    head = orjson.loads(line)
    if head["version"] != _STATE_VERSION:
        raise UsageError(
            f"the recovery store holds intake state version {head['version']}, this Tidegate reads {_STATE_VERSION}: "
            "resume with the version that wrote it, or start with an empty recovery folder"
        )
    return head, np.frombuffer(body, "<i8").astype(np.int64).reshape(-1, 3)
