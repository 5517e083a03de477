"""What is known about a key besides the rows of a window: slowly changing context, carried values, its baseline."""

from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np
import polars as pl
from numpy.typing import NDArray

from operators.columnar.aggregates import Floats
from operators.columnar.checks import DTYPES
from operators.columnar.grouping import Ints, order_by, run_bounds
from operators.columnar.snapshots import pack, unpack
from schemas.fields import fields_of
from schemas.streams import Stream

CONTEXT_STATE = "context/1"
CARRY_STATE = "carry/1"
BASELINE_STATE = "baseline/1"
NEVER = -(2**63)
"""The end of a window that is not there."""


class Context:
    """As-of join of one context stream (notes, settings) to windows.

    A context row is never too late: it counts from `effective_us`, its own time or, where its partition's watermark had
    passed that already, the watermark. Windows that end at or before that mark may have closed before the row came, so
    counting it in them would make the result depend on when it came; in every later window it counts. Of the rows that
    count before a window's end, the newest in event time is joined; of equals the later effective, then by place.

    stream: every field of its model but time, key and message number is joined. state: what `snapshot` gave.
    Errors: ValueError on a state that cannot be used.
    """

    def __init__(self, stream: Stream, state: bytes | None = None) -> None:
        self.name = stream.name
        self.fields = {
            name: DTYPES[spec.kind]
            for name, spec in fields_of(stream.model).items()
            if name not in ("ts", stream.key, stream.seq)
        }
        schema: dict[str, pl.DataType | type[pl.DataType]] = {
            "key": pl.String,
            "effective_us": pl.Int64,
            "event_us": pl.Int64,
            "partition": pl.UInt16,
            "offset": pl.Int64,
            **self.fields,
        }
        self._rows = pl.DataFrame(schema=schema)
        self._added: list[pl.DataFrame] = []
        self._known: _ByKey | None = None  # of `_rows` as they are now
        if state is not None:
            rows, _ = unpack(CONTEXT_STATE, state)
            if rows.columns != self._rows.columns:
                raise ValueError(
                    f"the recovery store has {rows.columns}, this flow {self._rows.columns}: start it empty"
                )
            self._rows = rows

    def add(self, rows: pl.DataFrame) -> None:
        """Take a batch: key, event_us, offset, mark_us, partition and the fields."""
        if rows.height:
            effective = pl.max_horizontal("event_us", "mark_us").alias("effective_us")
            self._added.append(rows.with_columns(effective)[self._rows.columns])

    def join(self, windows: pl.DataFrame) -> pl.DataFrame:
        """Add to each window (key, end_us) the fields as known before its end, null where nothing is, and where they
        come from: `<name>_us` (event time), `<name>_partition`, `<name>_offset`. The order of windows stays.
        """
        known = self._by_key()
        place = pl.Series(known.newest_before(windows["key"], windows["end_us"].to_numpy()).astype(np.uint32))
        origin = {"event_us": f"{self.name}_us", "partition": f"{self.name}_partition", "offset": f"{self.name}_offset"}
        return windows.hstack(
            [
                *(known.rows[name][place] for name in self.fields),
                *(known.rows[name][place].alias(called) for name, called in origin.items()),
            ]
        )

    def forget(self, mark_us: int) -> None:
        """Drop what no window ending after `mark_us` can need: of each key, all but the newest row before the mark."""
        known = self._by_key()
        gone = known.replaced_before(mark_us)
        if len(gone):
            needed = np.ones(self._rows.height, bool)
            needed[gone] = False
            self._rows = self._rows.filter(pl.Series(needed))
            self._known = None

    def snapshot(self) -> bytes:
        """The rows kept, as bytes for the constructor."""
        return pack(CONTEXT_STATE, self._sorted())

    def _sorted(self) -> pl.DataFrame:
        if self._added:
            rows = pl.concat([self._rows, *self._added])
            rows = rows.sort("effective_us", "event_us", "partition", "offset")
            # What is newer in event time stays in force when something older comes late.
            self._rows = rows.filter(pl.col("event_us") >= pl.col("event_us").cum_max().over("key"))
            self._added = []
            self._known = None
        return self._rows

    def _by_key(self) -> "_ByKey":
        rows = self._sorted()
        if self._known is None:
            self._known = _ByKey(rows)
        return self._known


class _ByKey:
    """Context rows, found by key and time. Plain arrays: a close asks with few windows, and pays for every engine call.

    rows: those given, by effective_us, and behind them one row of nulls, which stands for "nothing is known".
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        slot, self._slots = _slots(rows["key"])
        order = order_by(slot)
        self.rows = pl.concat([rows, pl.DataFrame([[None]] * rows.width, schema=rows.schema)])
        # Of each key a run of `_order`; an empty run for the keys that are not there, then the row of nulls.
        self._bounds = np.append(run_bounds(slot[order]), len(order))
        self._order = np.append(order, len(order))
        self._effective_us = np.append(rows["effective_us"].to_numpy()[order], 0)

    def newest_before(self, keys: pl.Series, end_us: Ints) -> Ints:
        """Row number of the newest row of each key that counts before its end, (n,) -> (n,)."""
        run = np.fromiter((self._slots.get(key, -2) for key in keys.to_list()), np.int64, len(end_us))
        first, low, high = self._bounds[run], self._bounds[run], self._bounds[run + 1]
        while (searched := low < high).any():
            middle = (low + high) // 2
            counts = self._effective_us[middle] < end_us
            low = np.where(searched & counts, middle + 1, low)
            high = np.where(searched & ~counts, middle, high)
        found: Ints = self._order[np.where(low > first, low, 0) - 1]
        return found

    def replaced_before(self, mark_us: int) -> Ints:
        """Row numbers of those that another row of their key replaces before the mark."""
        followed = np.ones(len(self._order), bool)
        followed[self._bounds[1:] - 1] = False
        at = np.flatnonzero(followed[:-1])
        return self._order[at[self._effective_us[at + 1] < mark_us]]


def _slots(keys: pl.Series) -> tuple[Ints, dict[str, int]]:
    """A number for each key in order of appearance, (n,), and which key has which."""
    slots: dict[str, int] = {}
    slot = np.fromiter((slots.setdefault(key, len(slots)) for key in keys.to_list()), np.int64, len(keys))
    return slot, slots


def carry(
    windows: pl.DataFrame, state: pl.DataFrame | None, fields: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Fill `<f>.last` and `<f>.last_us`, where a window has none, from the last earlier window of its key that had one.

    windows: by end_us inside each key, as they close. state: key and the columns filled, one row a key, from the call
    before; keys that are not in `windows` keep theirs. Returns the windows, and the state for the next call.
    """
    columns = [f"{field}.{part}" for field in fields for part in ("last", "last_us")]
    both = new = windows[["key", *columns]]
    if state is not None:
        both = pl.concat([state, new], how="vertical" if state.schema == new.schema else "vertical_relaxed")
    slot, _ = _slots(both["key"])
    order = order_by(slot)
    bounds = run_bounds(slot[order])
    first, nth = np.repeat(bounds[:-1], np.diff(bounds)), np.arange(len(order))
    source = np.empty_like(order)
    filled: list[pl.Series] = []
    for field in fields:
        seen_us = both[f"{field}.last_us"]
        if seen_us.null_count() in (0, len(order)):
            continue
        seen = ~np.isnan(seen_us.cast(pl.Float64).to_numpy())[order]
        newest = np.maximum.accumulate(np.where(seen, nth, -1))
        source[order] = order[np.where(newest >= first, newest, nth)]
        place = pl.Series(source.astype(np.uint32))
        filled += [both[f"{field}.{part}"][place] for part in ("last", "last_us")]
    latest = pl.Series(np.sort(order[bounds[1:] - 1]).astype(np.uint32))
    before = both.height - windows.height
    if filled:
        both = both.with_columns(filled)
        windows = windows.with_columns(column[before:] for column in filled)
    return windows, both[latest]


class Carry:
    """The state of `carry` from call to call. state: what `snapshot` gave. Errors: ValueError if it cannot be used."""

    def __init__(self, fields: Sequence[str], state: bytes | None = None) -> None:
        self.fields = tuple(fields)
        self._known: pl.DataFrame | None = None
        if state is not None:
            known, header = unpack(CARRY_STATE, state)
            self._known = known if header["known"] else None

    def fill(self, windows: pl.DataFrame) -> pl.DataFrame:
        """The windows with what `carry` fills in."""
        windows, known = self.peek(windows)
        self.keep(known)
        return windows

    def peek(self, windows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What `fill` would return, and what would be known after it: `keep` that, and all is as after `fill`."""
        return carry(windows, self._known, self.fields)

    def keep(self, known: pl.DataFrame) -> None:
        """Take what `peek` gave as known."""
        self._known = known

    def snapshot(self) -> bytes:
        """The last known values, as bytes for the constructor."""
        known = self._known
        return pack(CARRY_STATE, pl.DataFrame() if known is None else known, known=int(known is not None))


class Baseline:
    """A key's own normal: the median of a window column over its earlier windows that end in (end - span, end).

    columns: baseline name -> window column; the window itself never counts, nor does a window where the column is null.
    state: what `snapshot` gave. Errors: ValueError on a state that cannot be used.
    """

    def __init__(self, columns: Mapping[str, str], span_us: int, state: bytes | None = None) -> None:
        self.columns = dict(columns)
        self.span_us = span_us
        self._slots: dict[str, int] = {}
        self._end_us: Ints = np.empty((0, 1), np.int64)  # (keys, width): a free place ends NEVER
        self._values: Floats = np.empty((len(columns), 0, 1))  # (columns, keys, width): NaN is null
        self._packed: bytes | None = None
        if state is not None:
            rows, _ = unpack(BASELINE_STATE, state)
            if rows.columns != ["key", "end_us", *self.columns]:
                raise ValueError(
                    f"the recovery store has baselines {rows.columns[2:]}, not {list(self.columns)}: start it empty"
                )
            self._slots = {key: slot for slot, key in enumerate(rows["key"])}
            self._end_us = rows["end_us"].to_numpy().copy()
            values = [rows[name].to_numpy() for name in self.columns]
            self._values = np.array(values).reshape(len(self.columns), *self._end_us.shape)

    def join(self, windows: pl.DataFrame) -> pl.DataFrame:
        """Add `<name>.baseline` (Float64, null without an earlier value) to windows (key, end_us, the columns).

        windows: by end_us inside each key, as they close. They are the earlier windows of those in the next call.
        """
        slot, end_us, values = self._places(windows)
        medians = np.empty_like(values)
        for turn in _turns(slot):  # the first window of each key, then the second, and so on
            medians[:, turn] = self._medians(slot[turn], end_us[turn])
            self._store(slot[turn], end_us[turn], values[:, turn])
        return self._joined(windows, medians)

    def peek(self, windows: pl.DataFrame) -> pl.DataFrame:
        """What `join` would return, for windows of one end: `keep` them, and all is as after `join`."""
        slot, end_us, _ = self._places(windows)
        return self._joined(windows, self._medians(slot, end_us))

    def keep(self, windows: pl.DataFrame) -> None:
        """Take windows of one end as the earlier windows of those to come."""
        self._store(*self._places(windows))

    def forget(self, mark_us: int) -> None:
        """Drop the keys of which no window ending after `mark_us` can use anything."""
        needed = self._end_us.max(axis=1, initial=NEVER) > mark_us - self.span_us
        if not needed.all():
            self._slots = {key: nth for nth, key in enumerate(compress(self._slots, needed))}
            self._end_us, self._values = self._end_us[needed], self._values[:, needed]
            self._packed = None

    def snapshot(self) -> bytes:
        """The earlier windows kept, as bytes for the constructor."""
        if self._packed is None:
            columns = {"end_us": self._end_us, **dict(zip(self.columns, self._values, strict=True))}
            frame = pl.DataFrame(
                [pl.Series("key", list(self._slots), pl.String), *(pl.Series(*column) for column in columns.items())]
            )
            self._packed = pack(BASELINE_STATE, frame)
        return self._packed

    def _joined(self, windows: pl.DataFrame, medians: Floats) -> pl.DataFrame:
        names = [f"{name}.baseline" for name in self.columns]
        columns = zip(names, medians, strict=True)
        return windows.hstack([pl.Series(name, median, nan_to_null=True) for name, median in columns])

    def _places(self, windows: pl.DataFrame) -> tuple[Ints, Ints, Floats]:
        """Of each window its key's slot and its end, (n,), and what is kept of it, (columns, n); new keys get slots."""
        self._packed = None
        keys = windows["key"].to_list()
        for key in keys:
            self._slots.setdefault(key, len(self._slots))
        slot = np.fromiter((self._slots[key] for key in keys), np.int64, len(keys))
        new = len(self._slots) - len(self._end_us)
        if new:
            self._end_us = np.pad(self._end_us, ((0, new), (0, 0)), constant_values=NEVER)
            self._values = np.pad(self._values, ((0, 0), (0, new), (0, 0)), constant_values=np.nan)
        values = np.empty((len(self.columns), len(keys)))
        for nth, column in enumerate(self.columns.values()):
            values[nth] = windows[column].cast(pl.Float64).to_numpy()
        return slot, windows["end_us"].to_numpy(), values

    def _medians(self, slot: Ints, end_us: Ints) -> Floats:
        ends = self._end_us[slot]
        outside = (ends <= (end_us - self.span_us)[:, None]) | (ends >= end_us[:, None])
        medians = np.empty((len(self._values), len(slot)))
        line = np.arange(len(slot))
        for nth, values in enumerate(self._values):
            lines = values[slot]
            unused = outside | np.isnan(lines)
            lines[unused] = np.inf
            lines.sort(axis=1)
            count = lines.shape[1] - unused.sum(axis=1)
            lower, upper = lines[line, np.maximum(count - 1, 0) // 2], lines[line, count // 2]
            medians[nth] = np.where(count > 0, (lower + upper) / 2, np.nan)
        return medians

    def _store(self, slot: Ints, end_us: Ints, values: Floats) -> None:
        place = self._end_us[slot].argmin(axis=1)
        if (self._end_us[slot, place] > end_us - self.span_us).any():  # the oldest is still needed: more width
            width = self._end_us.shape[1] // 4 + 1
            self._end_us = np.pad(self._end_us, ((0, 0), (0, width)), constant_values=NEVER)
            self._values = np.pad(self._values, ((0, 0), (0, 0), (0, width)), constant_values=np.nan)
            place = self._end_us[slot].argmin(axis=1)
        self._end_us[slot, place] = end_us
        self._values[:, slot, place] = values


def _turns(slot: Ints) -> list[NDArray[np.int64]]:
    """Row numbers in turns: the first row of each slot, then the second of each, and so on."""
    order = np.argsort(slot, kind="stable")
    ordered = slot[order]
    first = np.searchsorted(ordered, ordered)
    nth = np.empty(len(slot), np.int64)
    nth[order] = np.arange(len(slot)) - first
    by_turn = np.argsort(nth, kind="stable")
    return np.split(by_turn, np.flatnonzero(np.diff(nth[by_turn])) + 1) if len(slot) else []
