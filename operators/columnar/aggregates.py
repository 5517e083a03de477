"""Exact aggregates of many windows at once, bit for bit determined by the order of the rows in each."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from operators.columnar.grouping import Ints
from schemas.windows import Agg

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
    event_us = rows["event_us"].to_numpy()[at]
    wanted: dict[str, list[Agg]] = {}
    for agg in aggs:
        wanted.setdefault(agg.field, []).append(agg)
    done: dict[str, pl.Series] = {}
    for name, of_field in wanted.items():
        field = _Field(rows[name], at, event_us, bounds, end_us, of_field)
        for agg in of_field:
            done[agg.out] = field.column(agg)
    return [done[agg.out] for agg in aggs]


class _Field:
    """The values (n,) of one field that are present, the groups (g,) that have any, and what its aggregates share."""

    def __init__(
        self, series: pl.Series, at: Ints, event_us: Ints, bounds: Ints, end_us: Ints, aggs: Sequence[Agg]
    ) -> None:
        self.series = series
        self.groups = len(end_us)
        if series.dtype == pl.String:
            for agg in aggs:
                if agg.fn not in ANY_TYPE:
                    raise ValueError(f"{agg.out}: {agg.fn} needs numbers, the field {agg.field} is text")
            self.values = np.zeros(len(at))
            missing = series.is_null().to_numpy()[at]
        else:
            self.values = series.cast(pl.Float64).to_numpy()[at]
            self.values += 0.0  # -0.0 becomes 0.0: they compare equal, so a sort might return either
            missing = np.isnan(self.values)
        if missing.any():
            kept = np.flatnonzero(~missing)
            at, event_us, self.values = at[kept], event_us[kept], self.values[kept]
            bounds = np.searchsorted(kept, bounds)
        size = np.diff(bounds)
        self.filled = np.flatnonzero(size)
        self.at, self.event_us = at, event_us
        self.size = size[self.filled]
        self.start = bounds[:-1][self.filled]
        self.last = self.start + self.size - 1
        self.end_us = end_us[self.filled]
        self.levels = sorted({0.0, 1.0} | {float(agg.arg or 0) for agg in aggs if agg.fn == "quantile"})
        self.is_ranked = any(agg.fn in ("median", "quantile") for agg in aggs)

    def column(self, agg: Agg) -> pl.Series:
        """One aggregate of every group, null where the group has no value."""
        if agg.fn == "count":
            count = np.zeros(self.groups, np.int64)
            count[self.filled] = self.size
            return pl.Series(agg.out, count)
        if agg.fn == "first":
            return self._spread(self.series[self.at[self.start]]).alias(agg.out)
        if agg.fn == "last":
            return self._spread(self.series[self.at[self.last]]).alias(agg.out)
        if agg.fn == "last_us":
            return self._spread(pl.Series(agg.out, self.event_us[self.last]))
        number = self._number(agg)
        if len(number) < self.groups:
            number, present = np.full(self.groups, np.nan), number
            number[self.filled] = present
        return pl.Series(agg.out, number, nan_to_null=True)

    def _number(self, agg: Agg) -> Floats:
        arg = float(agg.arg or 0)
        number: Floats
        match agg.fn:
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
                number = self.slope
            case "ewma":
                number = self._ewma(arg)
            case "time_weighted_mean":
                number = self._time_weighted_mean()
            case "fraction_above":
                number = self._fraction(self.values > arg)
            case "fraction_below":
                number = self._fraction(self.values < arg)
            case _:
                raise AssertionError(agg.fn)
        return number

    def _spread(self, present: pl.Series) -> pl.Series:
        if len(present) == self.groups:
            return present
        slot = np.full(self.groups, len(present))
        slot[self.filled] = np.arange(len(present))
        return present.extend_constant(None, 1)[slot]

    def _sum(self, x: Floats) -> Floats:
        return np.add.reduceat(x, self.start) if len(self.start) else np.empty(0)

    def _fraction(self, hit: NDArray[np.bool_]) -> Floats:
        return self._sum(hit.astype(np.float64)) / self.size

    def _each(self, of_group: NDArray[Number]) -> NDArray[Number]:
        return np.repeat(of_group, self.size)

    def _within(self, mean: Floats) -> Floats:
        # A mean lies between the extremes; rounding may put it just outside, and then a constant would vary.
        low, high = self.extremes
        return np.clip(mean, low, high)

    @cached_property
    def total(self) -> Floats:
        return self._sum(self.values)

    @cached_property
    def extremes(self) -> tuple[Floats, Floats]:
        if self.is_ranked:
            return self.ranked[1], self.ranked[-1]
        if not len(self.start):
            return np.empty(0), np.empty(0)
        return np.minimum.reduceat(self.values, self.start), np.maximum.reduceat(self.values, self.start)

    @cached_property
    def mean(self) -> Floats:
        return self._within(self.total / self.size)

    @cached_property
    def off(self) -> Floats:
        """Distance of each value from its group's mean."""
        return self.values - self._each(self.mean)

    @cached_property
    def age_us(self) -> Ints:
        """Time from each value to the last one of its group."""
        return self._each(self.event_us[self.last]) - self.event_us

    @cached_property
    def var(self) -> Floats:
        """Two passes: the mean first, then the squares of what is left, so nothing cancels."""
        freedom = np.where(self.size > 1, self.size - 1.0, np.nan)
        return self._sum(self.off * self.off) / freedom

    @cached_property
    def slope(self) -> Floats:
        """Sum of (t - mean t)(x - mean x) over sum of (t - mean t) squared."""
        seconds: Floats = np.multiply(self.age_us, -1e-6)
        seconds -= self._each(self._sum(seconds) / self.size)
        spread = self._sum(seconds * seconds)
        spread[self.event_us[self.last] == self.event_us[self.start]] = np.nan
        return self._sum(seconds * self.off) / spread

    @cached_property
    def ranked(self) -> Floats:
        """(2 + q, g): the median, the smallest value, every quantile asked for, and the largest value.

        Groups of similar size become the lines of one matrix, padded with infinity, and are sorted together.
        """
        out = np.empty((1 + len(self.levels), len(self.size)))
        scale = np.frexp(self.size)[1]  # 1, 2-3, 4-7, ... rows: padding at most doubles a line
        padded = np.concatenate([self.values, np.zeros(int(self.size.max(initial=0)))])
        for power in np.flatnonzero(np.bincount(scale)):
            groups = np.flatnonzero(scale == power)
            size, start = self.size[groups], self.start[groups]
            width = int(size.max())
            lines = sliding_window_view(padded, width)[start]
            lines[np.arange(width) >= size[:, None]] = np.inf
            lines.sort(axis=1)
            line = np.arange(len(groups))
            out[0, groups] = (lines[line, (size - 1) // 2] + lines[line, size // 2]) / 2
            for nth, level in enumerate(self.levels, 1):
                exact = (size - 1) * level
                below = exact.astype(np.int64)
                low, high = lines[line, below], lines[line, np.minimum(below + 1, size - 1)]
                out[nth, groups] = low + (high - low) * (exact - below)
        return out

    def _ewma(self, half_life_s: float) -> Floats:
        weight = np.exp2(self.age_us * (-1e-6 / half_life_s))
        return self._within(self._sum(weight * self.values) / self._sum(weight))

    def _time_weighted_mean(self) -> Floats:
        held_us = np.empty(len(self.values))
        held_us[:-1] = np.diff(self.event_us)
        held_us[self.last] = self.end_us - self.event_us[self.last]
        return self._within(self._sum(held_us * self.values) / (self.end_us - self.event_us[self.start]))
