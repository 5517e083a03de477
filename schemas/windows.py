"""Windows and aggregates in words: half-open [start, end), aligned to the epoch, times in microseconds UTC.

A row is late when every window that could hold it had closed on the row's own partition watermark before it arrived.
"""

from dataclasses import dataclass
from typing import Literal

AggName = Literal[
    "count",  # rows of the window in which the field is present
    "sum",
    "mean",
    "var",  # population variance is `ddof=0`; ours is the sample variance, ddof=1, null for one value
    "std",
    "min",
    "max",
    "first",  # in event time; ties by partition then offset
    "last",
    "last_us",  # event time of `last`
    "median",
    "quantile",  # arg: 0..1, linear interpolation, exact over the window
    "slope",  # least squares over event time, field unit per second; null for one instant
    "ewma",  # arg: half life in seconds; weights 0.5 ** (age / half life), age measured from the last value
    "time_weighted_mean",  # each value holds until the next one, the last until the window's end
    "fraction_above",  # arg: threshold, strictly above, of the values present
    "fraction_below",
]


@dataclass(frozen=True, slots=True)
class Agg:
    """One output column: `out` = `fn(field)`."""

    out: str
    field: str
    fn: AggName
    arg: float | None = None


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Which windows a row falls into. Errors: ValueError on a length that is not positive."""

    kind: Literal["tumbling", "sliding", "session", "count"] = "tumbling"
    length_us: int = 60_000_000  # tumbling, sliding
    every_us: int = 0  # sliding: a window starts every `every_us`
    gap_us: int = 0  # session: a silence this long ends it
    rows: int = 0  # count: rows a window

    def __post_init__(self) -> None:
        needed = {"tumbling": "length_us", "sliding": "every_us", "session": "gap_us", "count": "rows"}[self.kind]
        if getattr(self, needed) <= 0 or (self.kind == "sliding" and self.length_us <= 0):
            raise ValueError(f"a {self.kind} window needs {needed} above zero")
