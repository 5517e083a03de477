"""A figure over repeats."""

from collections.abc import Sequence
from math import comb
from statistics import median


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def within(values: Sequence[float], digits: int = 3) -> tuple[float, float]:
    """Where the median of many more repeats lies, with a confidence of 95 %, however they spread; six at least for it.

    Between two of the values in order of size (Conover, Practical Nonparametric Statistics, 3.2).
    """
    count, below, beyond = len(values), 1, 0
    while below < 0.025 * 2**count:
        beyond += 1
        below += comb(count, beyond)
    ordered = sorted(values)
    out = max(beyond - 1, 0)
    return round(ordered[out], digits), round(ordered[count - 1 - out], digits)
