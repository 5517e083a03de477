"""Exact aggregates of many windows at once, bit for bit determined by the order of the rows in each."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from operators.columnar.grouping import Ints
from schemas.windows import Agg, AggName

Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

ANY_TYPE = frozenset({"count", "first", "last", "last_us"})
"""Aggregates that a text field has too."""
NEEDS_ARG = {
    "quantile": (0.0, 1.0),
    "ewma": (1e-6, np.inf),
    "fraction_above": (-np.inf, np.inf),
    "fraction_below": (-np.inf, np.inf),
}
"""Aggregates with an argument, and its inclusive range."""


def check_aggregates(aggs: Iterable[Agg]) -> None:
    """Errors: ValueError naming the aggregate whose argument is missing or out of range, or whose name is taken."""
    seen: set[str] = set()
    for agg in aggs:
        if agg.out in seen:
            raise ValueError(f"two aggregates are called {agg.out}: give one another name")
        seen.add(agg.out)
        low, high = NEEDS_ARG.get(agg.fn, (None, None))
        if low is None and agg.arg is not None:
            raise ValueError(f"{agg.out}: {agg.fn} takes no argument, {agg.arg} was given")
        if low is not None and high is not None and not (agg.arg is not None and low <= agg.arg <= high):
            raise ValueError(f"{agg.out}: {agg.fn} needs an argument from {low} to {high}, not {agg.arg}")


def aggregate(rows: pl.DataFrame, at: Ints, bounds: Ints, end_us: Ints, aggs: Sequence[Agg]) -> list[pl.Series]:
    """Aggregate groups of rows; one series of (g,) for each of `aggs`, in their order.

    rows: `event_us` and the fields. at (n,): row numbers, group after group, inside a group by (event_us, partition,
    offset). bounds (g + 1,): group i is at[bounds[i]:bounds[i + 1]], never empty. end_us (g,): the windows' ends, each
    after its last row. Values that are null or NaN are ignored; a group without any gives null, and 0 for `count`.
    Out: `count` and `last_us` Int64, `first` and `last` of the field's type, all others Float64.
    Errors: ValueError if a text field is asked for a number.
    """
    everything = _Groups(rows["event_us"].to_numpy()[at], at, bounds, end_us)
    wanted: dict[str, list[Agg]] = {}
    for agg in aggs:
        wanted.setdefault(agg.field, []).append(agg)
    done: dict[str, pl.Series] = {}
    numbers: dict[str, Floats] = {}
    for name, of_field in wanted.items():
        field = _Field(rows[name], rows["event_us"], everything, of_field)
        for agg in of_field:
            if agg.fn in ANY_TYPE:
                done[agg.out] = field.column(agg)
            else:
                numbers[agg.out] = field.number(agg)
    if numbers:  # one series for all, then cut: to make a small one costs more than to fill it
        together = pl.Series(np.concatenate(list(numbers.values())), nan_to_null=True)
        for nth, out in enumerate(numbers):
            done[out] = together.slice(nth * len(end_us), len(end_us)).alias(out)
    return [done[agg.out] for agg in aggs]


class _Groups:
    """Rows in groups, and what depends on their times only; shared by all fields that miss no value.

    Arrays of (n,) stand beside `at`, arrays of (f,) beside `filled`: the numbers of those groups, of g, that have rows.
    """

    def __init__(self, event_us: Ints, at: Ints, bounds: Ints, end_us: Ints) -> None:
        self.event_us, self.at, self.bounds, self.end_us = event_us, at, bounds, end_us
        size = np.diff(bounds)
        self.filled = np.flatnonzero(size)
        self.size = size[self.filled]
        self.start = bounds[:-1][self.filled]
        self.last = self.start + self.size - 1

    def only(self, present: NDArray[np.bool_]) -> "_Groups":
        """The same groups with those of their rows that are `present` (n,)."""
        kept = np.flatnonzero(present)
        return _Groups(self.event_us[kept], self.at[kept], np.searchsorted(kept, self.bounds), self.end_us)

    @cached_property
    def none(self) -> "_Groups":
        """The same groups without rows."""
        return self.only(np.zeros(len(self.at), bool))

    def sum(self, x: Floats) -> Floats:
        """Sum of each group, (n,) -> (f,), pairwise."""
        return np.add.reduceat(x, self.start)

    def each(self, of_group: NDArray[Number]) -> NDArray[Number]:
        """The group's number beside each of its rows, (f,) -> (n,)."""
        return np.repeat(of_group, self.size)

    def _rows(self, place: Ints) -> pl.Series:
        row = self.at[place]
        if len(row) == len(self.end_us):
            return pl.Series(row.astype(np.uint32))
        rows = np.full(len(self.end_us), np.nan)
        rows[self.filled] = row
        return pl.Series(rows, nan_to_null=True).cast(pl.UInt32)

    @cached_property
    def first_row(self) -> pl.Series:
        """Row number of each group's first row, (g,), null where it has none."""
        return self._rows(self.start)

    @cached_property
    def last_row(self) -> pl.Series:
        """Row number of each group's last row, (g,), null where it has none."""
        return self._rows(self.last)

    @cached_property
    def age_us(self) -> Ints:
        """(n,) time from each row to the last of its group."""
        return self.each(self.event_us[self.last]) - self.event_us

    @cached_property
    def held_us(self) -> Floats:
        """(n,) time from each row to the next, from the last to the window's end."""
        held_us = np.empty(len(self.event_us))
        held_us[:-1] = np.diff(self.event_us)
        held_us[self.last] = self.end_us[self.filled] - self.event_us[self.last]
        return held_us

    @cached_property
    def seconds(self) -> Floats:
        """(n,) time of each row from its group's mean time."""
        seconds: Floats = np.multiply(self.age_us, -1e-6)
        seconds -= self.each(self.sum(seconds) / self.size)
        return seconds

    @cached_property
    def spread(self) -> Floats:
        """(f,) sum of the squares of `seconds`, NaN for one instant."""
        spread = self.sum(self.seconds * self.seconds)
        spread[self.event_us[self.last] == self.event_us[self.start]] = np.nan
        return spread


class _Field:
    """The values of one field that are present, and what its aggregates share."""

    def __init__(self, series: pl.Series, event_us: pl.Series, everything: _Groups, aggs: Sequence[Agg]) -> None:
        self.series, self.event_us = series, event_us
        self.floats: Floats = np.empty(0)
        self.groups = everything
        if series.dtype == pl.String:
            for agg in aggs:
                if agg.fn not in ANY_TYPE:
                    raise ValueError(f"{agg.out}: {agg.fn} needs numbers, the field {agg.field} is text")
        if series.null_count() == len(series):
            self.groups = everything.none
        elif series.dtype != pl.String:
            self.floats = series.cast(pl.Float64).to_numpy()
            missing = np.isnan(self.floats)
            if missing.any():
                self.groups = everything.only(~missing[everything.at])
        elif series.null_count():
            self.groups = everything.only(series.is_not_null().to_numpy()[everything.at])
        self.levels = sorted({0.0, 1.0} | {float(agg.arg or 0) for agg in aggs if agg.fn == "quantile"})
        self.is_ranked = any(agg.fn in ("median", "quantile") for agg in aggs)

    def column(self, agg: Agg) -> pl.Series:
        """An aggregate that any type has, of every group, (g,), null where the group has no value."""
        groups = self.groups
        if agg.fn == "first":
            return self.series[groups.first_row].alias(agg.out)
        if agg.fn == "last":
            return self.series[groups.last_row].alias(agg.out)
        if agg.fn == "last_us":
            return self.event_us[groups.last_row].alias(agg.out)
        count = np.zeros(len(groups.end_us), np.int64)
        count[groups.filled] = groups.size
        return pl.Series(agg.out, count)

    def number(self, agg: Agg) -> Floats:
        """Any other aggregate of every group, (g,), NaN where the group has no value."""
        number = self._number(agg.fn, float(agg.arg or 0))
        if len(number) == len(self.groups.end_us):
            return number
        of_all = np.full(len(self.groups.end_us), np.nan)
        of_all[self.groups.filled] = number
        return of_all

    def _number(self, fn: AggName, arg: float) -> Floats:
        number: Floats
        match fn:
            case "sum":
                number = self.total
            case "mean":
                number = self.mean
            case "var":
                number = self.var
            case "std":
                number = np.sqrt(self.var)
            case "min":
                number = self.extremes[0]
            case "max":
                number = self.extremes[1]
            case "median":
                number = self.ranked[0]
            case "quantile":
                number = self.ranked[1 + self.levels.index(arg)]
            case "slope":
                number = self.groups.sum(self.groups.seconds * self.off) / self.groups.spread
            case "ewma":
                number = self._weighted(np.exp2(self.groups.age_us * (-1e-6 / arg)))
            case "time_weighted_mean":
                number = self._weighted(self.groups.held_us)
            case "fraction_above":
                number = self.groups.sum((self.values > arg).astype(np.float64)) / self.groups.size
            case "fraction_below":
                number = self.groups.sum((self.values < arg).astype(np.float64)) / self.groups.size
            case _:
                raise AssertionError(fn)
        return number

    def _weighted(self, weight: Floats) -> Floats:
        return self._within(self.groups.sum(weight * self.values) / self.groups.sum(weight))

    def _within(self, mean: Floats) -> Floats:
        # A mean lies between the extremes; rounding may put it just outside, and then a constant would vary.
        low, high = self.extremes
        return np.clip(mean, low, high)

    @cached_property
    def values(self) -> Floats:
        values = self.floats[self.groups.at]
        values += 0.0  # -0.0 becomes 0.0: they compare equal, so a sort might return either
        return values

    @cached_property
    def total(self) -> Floats:
        return self.groups.sum(self.values)

    @cached_property
    def extremes(self) -> tuple[Floats, Floats]:
        if self.is_ranked:
            return self.ranked[1], self.ranked[-1]
        start = self.groups.start
        return np.minimum.reduceat(self.values, start), np.maximum.reduceat(self.values, start)

    @cached_property
    def mean(self) -> Floats:
        return self._within(self.total / self.groups.size)

    @cached_property
    def off(self) -> Floats:
        """(n,) distance of each value from its group's mean."""
        return self.values - self.groups.each(self.mean)

    @cached_property
    def var(self) -> Floats:
        """Two passes: the mean first, then the squares of what is left, so nothing cancels."""
        size = self.groups.size
        return self.groups.sum(self.off * self.off) / np.where(size > 1, size - 1.0, np.nan)

    @cached_property
    def ranked(self) -> Floats:
        """(2 + q, f): the median, the smallest value, every quantile asked for, and the largest value.

        Groups of similar size become the lines of one matrix, padded with infinity, and are sorted together.
        """
        sizes, starts = self.groups.size, self.groups.start
        out = np.empty((1 + len(self.levels), len(sizes)))
        scale = np.frexp(sizes)[1]  # 1, 2-3, 4-7, ... rows: padding at most doubles a line
        padded = np.concatenate([self.values, np.zeros(int(sizes.max(initial=0)))])
        for power in np.flatnonzero(np.bincount(scale)):
            groups = np.flatnonzero(scale == power)
            size = sizes[groups]
            width = int(size.max())
            lines = sliding_window_view(padded, width)[starts[groups]]
            lines[np.arange(width) >= size[:, None]] = np.inf
            lines.sort(axis=1)
            values, line = lines.ravel(), np.arange(0, lines.size, width)
            out[0, groups] = (values[line + (size - 1) // 2] + values[line + size // 2]) / 2
            exact = np.multiply.outer(self.levels, size - 1)
            below = exact.astype(np.int64)
            low, high = values[line + below], values[line + np.minimum(below + 1, size - 1)]
            out[1:, groups] = low + (high - low) * (exact - below)
        return out
