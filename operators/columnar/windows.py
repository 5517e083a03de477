"""Rows in, closed windows out. Accepted rows are kept until their window closes or is drafted, then aggregated at once.

So quantiles are exact, nothing is merged, a small batch costs next to nothing, and the result does not depend on how
rows were cut into batches. A row belongs to a window only if the window's end is after the row's own mark.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from operators.columnar.aggregates import aggregate, check_aggregates
from operators.columnar.grouping import Ints, offset_ranges, order_by, run_bounds, take_groups
from operators.columnar.snapshots import pack, unpack
from operators.columnar.watermark import NO_MARK
from schemas.windows import Agg, WindowSpec

STATE = "windows/1"
FOREVER = 2**63 - 1
SMALL_ROWS, SMALL_CHUNKS = 2048, 64
"""So many chunks in a row, each smaller than that, are made into one."""
PAIRS_MAX = 4_000_000
"""(row, window) pairs of a sliding window that are worked on at once; more are taken piece by piece."""


def late_before_us(event_us: Ints, spec: WindowSpec) -> Ints:
    """The mark at which each row would come too late, (n,) -> (n,): a row is late iff this is <= its mark.

    Tumbling and sliding: the end of the last window that could hold the row. Session and count: the row's own time.
    A session closes when the joint mark has reached its last row + gap, and the joint mark never passes a row's own
    mark; so a row newer than its own mark lies at least a gap after every closed session and cannot reopen one, while
    an older row could. A count window is cut from the rows before the mark, which none may join afterwards.
    """
    if spec.kind in ("session", "count"):
        return event_us
    every_us = spec.every_us if spec.kind == "sliding" else spec.length_us
    return event_us // every_us * every_us + spec.length_us


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows with two lower bounds: of their times, and of the end of any window that they might close."""

    rows: pl.DataFrame
    first_us: int
    next_us: int


@dataclass(frozen=True, slots=True)
class _Groups:
    """Windows that close: at (n,) row numbers, window after window; bounds (g + 1,) into it; (g,) starts and ends."""

    at: Ints
    bounds: Ints
    start_us: Ints
    end_us: Ints


@dataclass(frozen=True, slots=True)
class _Draft:
    """Windows worked out before they close: their end, all rows before it, which lie apart, and what `close` gives."""

    end_us: int
    rows: pl.DataFrame
    closed: pl.DataFrame


NO_GROUPS = _Groups(*(np.zeros(size, np.int64) for size in (0, 1, 0, 0)))


class Windows:
    """The open windows of one shard.

    aggs: the aggregate columns of a closed window; the fields they name are what is kept of a row.
    state: what `snapshot` gave. Errors: ValueError on a specification or a state that cannot be used.
    """

    def __init__(self, spec: WindowSpec, aggs: Sequence[Agg], state: bytes | None = None) -> None:
        check_aggregates(aggs)
        self.spec = spec
        self.aggs = tuple(aggs)
        self.on_grid = spec.kind in ("tumbling", "sliding")
        self.every_us = spec.every_us if spec.kind == "sliding" else spec.length_us
        if self.on_grid and self.every_us > spec.length_us:
            raise ValueError(f"windows of {spec.length_us} us every {self.every_us} us would lose the rows in between")
        schema: dict[str, pl.DataType | type[pl.DataType]] = {
            "key": pl.String,
            "event_us": pl.Int64,
            "offset": pl.Int64,
            "partition": pl.UInt16,
        }
        if spec.kind == "sliding":  # of a row in one window only, the mark has done its work once it was accepted
            schema["mark_us"] = pl.Int64
        schema.update(dict.fromkeys(sorted({agg.field for agg in aggs}), pl.Null))
        self.closed_us = NO_MARK
        self._chunks: list[_Chunk] = []
        self._draft: _Draft | None = None
        self._keys = pl.Enum([])
        self._empty = pl.DataFrame(schema=schema)
        if state is not None:
            rows, header = unpack(STATE, state)
            if rows.columns != self._empty.columns:
                raise ValueError(
                    f"the recovery store has {rows.columns}, this flow {self._empty.columns}: start it empty"
                )
            self.closed_us = header["closed_us"] or 0
            self._empty = rows.clear()
            self._keep(rows)

    def add(self, rows: pl.DataFrame) -> pl.DataFrame | None:
        """Take a batch of accepted rows: key, event_us, offset, mark_us, partition and fields (an absent one is null).

        Returns the rows whose last window has closed already, for the dead letters; None where there are none, as is
        normal: only a partition that was left out as idle and then speaks again can bring some.
        """
        if not rows.height:
            return None
        refused = None
        if self.closed_us > NO_MARK and _least(rows["mark_us"]) < self.closed_us:
            late = pl.Series(late_before_us(rows["event_us"].to_numpy(), self.spec) <= self.closed_us)
            refused = rows.filter(late) if late.any() else None
            rows = rows.filter(~late).with_columns(pl.col("mark_us").clip(lower_bound=self.closed_us))
        absent = [name for name in self._empty.columns if name not in rows.columns]
        if absent:
            rows = rows.with_columns(pl.lit(None).alias(name) for name in absent)
        self._keep(rows[self._empty.columns])
        return refused

    @property
    def next_end_us(self) -> int | None:
        """No window closes before the mark has reached this; None where none can. A lower bound."""
        drafted_us = FOREVER if self._draft is None else self._draft.end_us
        soonest = min((chunk.next_us for chunk in self._chunks), default=FOREVER)
        return min(soonest, drafted_us) if min(soonest, drafted_us) < FOREVER else None

    @property
    def rows_open(self) -> int:
        """How many rows are kept."""
        drafted = 0 if self._draft is None else self._draft.rows.height
        return drafted + sum(chunk.rows.height for chunk in self._chunks)

    @property
    def drafted_us(self) -> int | None:
        """End of the windows that are worked out already, and for which no row came since; None where none are."""
        return None if self._draft is None else self._draft.end_us

    def draft(self) -> pl.DataFrame | None:
        """Work out the windows that close next; `close` returns this very frame if it closes no others and no row comes
        for them until then. None where none is open, and for kinds whose rows outlive a close: all but tumbling.
        """
        end_us = self.next_end_us
        if end_us is None or self.spec.kind != "tumbling":
            return None
        if self._draft is None:
            rows, beyond = self._before(end_us)
            ours = rows["event_us"].to_numpy() < end_us
            _, part = _part(rows, ours)
            closed, _, _ = self._close_grid(part, np.full(1, end_us))
            self._chunks, self._draft = [], _Draft(end_us, part, closed)
            self._keep(_rest(rows, ours))
            self._chunks += beyond
        return self._draft.closed

    def close(self, mark_us: int | None, key_marks: pl.DataFrame | None = None) -> pl.DataFrame:
        """Close every window that ends at or before `mark_us` (None: every window, at the end of a bounded source).

        key_marks: columns key and mark_us, used instead where time runs for each key by itself; a key that it lacks
        closes nothing. Returns one row for each window and key that has rows, by (end_us, key): key, start_us, end_us,
        rows, offsets (of each partition, its smallest and largest), then the aggregates. A count window closes only
        when it is full: what is left at the end of a source is never emitted, and stays in `rows_open`.
        """
        limit_us = FOREVER if mark_us is None else mark_us
        if key_marks is not None:
            limit_us = int(key_marks["mark_us"].to_numpy().max(initial=NO_MARK))
        elif mark_us is not None:
            self.closed_us = max(self.closed_us, mark_us)
        soonest_us = self.next_end_us
        if soonest_us is None or soonest_us > limit_us:
            return self._emit(self._empty, NO_GROUPS)
        draft = self._draft
        if draft and key_marks is None and (limit_us < draft.end_us + self.every_us or not self._chunks):
            self._draft, closed = None, draft.closed
        else:
            self._undo_draft()
            closed = self._close(limit_us, key_marks)
        if key_marks is None and mark_us is None:
            self.closed_us = int(closed["end_us"].to_numpy().max(initial=self.closed_us))
        return closed

    def snapshot(self) -> bytes:
        """The open rows as bytes, for the constructor."""
        drafted = self._empty if self._draft is None else self._draft.rows
        rows = _stack([self._empty, drafted, *(chunk.rows for chunk in self._chunks)])
        return pack(STATE, rows, closed_us=self.closed_us)

    def _keep(self, rows: pl.DataFrame, next_us: int | None = None) -> None:
        if not rows.height:
            return
        self._empty = rows.clear()
        first_us = _least(rows["event_us"])
        if self._draft is not None and first_us < self._draft.end_us:
            self._undo_draft()
        if next_us is None:
            next_us = first_us + (self.spec.gap_us if self.spec.kind == "session" else 1)
        if self.on_grid:  # the first end after both the row and what has closed
            length_us, after_us = self.spec.length_us, max(first_us, self.closed_us)
            next_us = ((after_us - length_us) // self.every_us + 1) * self.every_us + length_us
        self._chunks.append(_Chunk(rows, first_us, next_us))
        tail = self._chunks[-SMALL_CHUNKS:]
        if len(tail) == SMALL_CHUNKS and all(chunk.rows.height < SMALL_ROWS for chunk in tail):
            merged = _stack([chunk.rows for chunk in tail])
            bounds = min(chunk.first_us for chunk in tail), min(chunk.next_us for chunk in tail)
            self._chunks[-SMALL_CHUNKS:] = [_Chunk(merged, *bounds)]

    def _undo_draft(self) -> None:
        if self._draft is not None:
            rows, self._draft = self._draft.rows, None
            self._keep(rows)

    def _before(self, limit_us: int) -> tuple[pl.DataFrame, list[_Chunk]]:
        """The rows of all chunks that have any before the limit, and the other chunks."""
        reached: list[_Chunk] = []
        beyond: list[_Chunk] = []
        for chunk in self._chunks:
            # Only rows before the limit can be in a window that closes, or keep a session open.
            (reached if chunk.first_us < limit_us else beyond).append(chunk)
        return _stack([chunk.rows for chunk in reached]), beyond

    def _close(self, limit_us: int, key_marks: pl.DataFrame | None) -> pl.DataFrame:
        rows, beyond = self._before(limit_us)
        mark_us: Ints = np.full(1, limit_us)
        if key_marks is not None:
            marks = rows.select("key").join(key_marks, on="key", how="left", maintain_order="left")["mark_us"]
            mark_us = np.maximum(marks.fill_null(NO_MARK).to_numpy(), NO_MARK)
        close = {"session": self._close_sessions, "count": self._close_counts}.get(self.spec.kind, self._close_grid)
        closed, rows, next_us = close(rows, mark_us)
        self._chunks = []
        self._keep(rows, next_us)
        self._chunks += beyond
        return closed

    def _close_grid(self, rows: pl.DataFrame, mark_us: Ints) -> tuple[pl.DataFrame, pl.DataFrame, None]:
        """Tumbling and sliding. A window is known by its start // every_us."""
        event_us = rows["event_us"].to_numpy()
        newest = event_us // self.every_us
        closing = (mark_us - self.spec.length_us) // self.every_us
        gone = newest <= closing
        pieces: Iterable[tuple[Ints | None, Ints]]
        if self.spec.kind == "tumbling":
            here, part = _part(rows, gone)
            pieces = [(None, newest[here])]
        else:
            after_us = np.maximum(event_us, rows["mark_us"].to_numpy())
            oldest, newest = (after_us - self.spec.length_us) // self.every_us + 1, np.minimum(newest, closing)
            here, part = _part(rows, oldest <= newest)
            pieces = _pairs(oldest[here], newest[here])
            # The windows of a row that have closed are over for it.
            rows = rows.with_columns(pl.Series("mark_us", np.maximum(rows["mark_us"].to_numpy(), mark_us)))
        closed = [self._emit_cells(part, row, window) for row, window in pieces if len(window)]
        if len(closed) != 1:
            closed = [pl.concat(closed) if closed else self._emit(rows, NO_GROUPS)]
        return closed[0], _rest(rows, gone), None

    def _emit_cells(self, rows: pl.DataFrame, row: Ints | None, window: Ints) -> pl.DataFrame:
        """Windows on the grid. row, window (n,): row number and window of each pair; row None: all rows in turn."""
        rank, keys = self._ranks(rows["key"])
        event_us = rows["event_us"].to_numpy()
        if row is not None:
            rank, event_us = rank[row], event_us[row]
        low = int(window.min())
        cell = (window - low) * keys
        cell += rank
        order = order_by(cell, event_us - window * self.every_us)
        bounds = run_bounds(cell[order])
        start_us = (cell[order[bounds[:-1]]] // keys + low) * self.every_us
        at = order if row is None else row[order]
        return self._emit(rows, _Groups(at, bounds, start_us, start_us + self.spec.length_us))

    def _close_sessions(self, rows: pl.DataFrame, mark_us: Ints) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        event_us, gap_us = rows["event_us"].to_numpy(), self.spec.gap_us
        before = event_us < mark_us
        here, part = _part(rows, before)
        rank, _ = self._ranks(part["key"])
        time_us = part["event_us"].to_numpy()
        at = order_by(rank, time_us)
        rank, time_us = rank[at], time_us[at]
        bounds = run_bounds(rank, np.diff(time_us) >= gap_us)
        first = bounds[:-1]
        end_us = time_us[bounds[1:] - 1] + gap_us
        if len(mark_us) > 1:
            mark_us = mark_us[here][at[first]]
        over = end_us <= mark_us
        soonest_us = min(end_us[~over].min(initial=FOREVER), event_us[~before].min(initial=FOREVER - gap_us) + gap_us)
        chosen = np.flatnonzero(over)
        chosen = chosen[order_by(end_us[chosen], rank[first[chosen]])]
        at, bounds = take_groups(at, bounds, chosen)
        closed = self._emit(part, _Groups(at, bounds, time_us[first[chosen]], end_us[chosen]))
        return closed, _without(rows, here, at), int(soonest_us)

    def _close_counts(self, rows: pl.DataFrame, mark_us: Ints) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        event_us, full = rows["event_us"].to_numpy(), self.spec.rows
        before = event_us < mark_us
        here, part = _part(rows, before)
        rank, keys = self._ranks(part["key"])
        at = np.flatnonzero((np.bincount(rank, minlength=keys) >= full)[rank])
        time_us = part["event_us"].to_numpy()
        at = at[order_by(rank[at], time_us[at])]
        rank = rank[at]
        bounds = run_bounds(rank)
        size = np.diff(bounds)
        at = at[np.arange(len(at)) - np.repeat(bounds[:-1], size) < np.repeat(size // full * full, size)]
        start_us, end_us = time_us[at[::full]], time_us[at[full - 1 :: full]] + 1
        rank = np.repeat(rank[bounds[:-1]], size // full)
        chosen = order_by(end_us, rank)
        at, bounds = take_groups(at, np.arange(0, len(at) + 1, full), chosen)
        closed = self._emit(part, _Groups(at, bounds, start_us[chosen], end_us[chosen]))
        # Of what is before the mark too little is left to fill a window: the next one ends with a later row.
        soonest_us = int(event_us[~before].min(initial=FOREVER - 1)) + 1
        return closed, _without(rows, here, at), soonest_us

    def _ranks(self, keys: pl.Series) -> tuple[Ints, int]:
        """Each row's place in the order of keys, and a number above all places. Keys are compared as UTF-8 bytes."""
        codes = keys.cast(self._keys, strict=False)
        if codes.null_count():
            known = pl.concat([self._keys.categories, keys.unique()]).unique().sort()
            self._keys = pl.Enum(known)
            codes = keys.cast(self._keys)
        return codes.to_physical().to_numpy().astype(np.int64), len(self._keys.categories)

    def _emit(self, rows: pl.DataFrame, groups: _Groups) -> pl.DataFrame:
        at, bounds = groups.at, groups.bounds
        columns = [
            rows["key"][pl.Series(at[bounds[:-1]].astype(np.uint32))],
            pl.Series("start_us", groups.start_us),
            pl.Series("end_us", groups.end_us),
            pl.Series("rows", np.diff(bounds)),
            offset_ranges(rows["partition"].to_numpy()[at], rows["offset"].to_numpy()[at], bounds),
        ]
        return pl.DataFrame([*columns, *aggregate(rows, at, bounds, groups.end_us, self.aggs)])


def _least(series: pl.Series) -> int:
    return int(series.to_numpy().min())


def _stack(frames: list[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, rechunk=True)
    except pl.exceptions.SchemaError:  # a field that one stream has and another lacks
        return pl.concat(frames, how="vertical_relaxed", rechunk=True)


def _part(rows: pl.DataFrame, chosen: NDArray[np.bool_]) -> tuple[Ints | slice, pl.DataFrame]:
    """The chosen rows by (partition, offset), and where they are in `rows`."""
    partition, offset = rows["partition"].to_numpy(), rows["offset"].to_numpy()
    in_order = bool(partition.min() == partition.max() and (offset[1:] >= offset[:-1]).all())
    first = _leading(chosen)
    if in_order and first is not None:
        return slice(first), rows.head(first)
    here, part = np.flatnonzero(chosen), rows.filter(pl.Series(chosen))
    if in_order:
        return here, part
    order = order_by(partition[here].astype(np.int64), offset[here])
    return here[order], part[order]


def _leading(chosen: NDArray[np.bool_]) -> int | None:
    """How many are chosen, where these are the first ones, as when rows come in order of time; else None."""
    count = int(np.count_nonzero(chosen))
    return count if chosen[:count].all() else None


def _rest(rows: pl.DataFrame, gone: NDArray[np.bool_]) -> pl.DataFrame:
    first = _leading(gone)
    return rows.filter(pl.Series(~gone)) if first is None else rows.slice(first)


def _without(rows: pl.DataFrame, here: Ints | slice, at: Ints) -> pl.DataFrame:
    gone = np.zeros(rows.height, bool)
    gone[at if isinstance(here, slice) else here[at]] = True
    return _rest(rows, gone)


def _pairs(oldest: Ints, newest: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(row, window) for every window from `oldest` to `newest` of each row, in pieces, earlier windows first."""
    times = np.maximum(newest - oldest + 1, 0)
    total = int(times.sum())
    if not total:
        return
    low, high = int(oldest.min()), int(newest.max())
    if total > PAIRS_MAX and low < high:
        middle = (low + high) // 2
        yield from _pairs(oldest, np.minimum(newest, middle))
        yield from _pairs(np.maximum(oldest, middle + 1), newest)
        return
    row = np.repeat(np.arange(len(times)), times)
    nth = np.arange(total) - np.repeat(np.cumsum(times) - times, times)
    yield row, oldest[row] + nth
