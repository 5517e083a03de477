"""The dullest possible code for what the columnar kernels compute: plain loops over rows that are dicts."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from schemas.windows import Agg, WindowSpec

Row = dict[str, Any]


def is_late(row: Row, spec: WindowSpec) -> bool:
    """Whether every window that could hold the row had closed on its own mark."""
    if spec.kind in ("session", "count"):
        return bool(row["event_us"] <= row["mark_us"])
    return all(end <= row["mark_us"] for _, end in grid_windows(row, spec))


def grid_windows(row: Row, spec: WindowSpec) -> list[tuple[int, int]]:
    """Tumbling and sliding windows that span the row's time."""
    every = spec.every_us if spec.kind == "sliding" else spec.length_us
    start = row["event_us"] // every * every
    found = []
    while start + spec.length_us > row["event_us"]:
        found.append((start, start + spec.length_us))
        start -= every
    return found


def canonical(rows: Iterable[Row]) -> list[Row]:
    """Rows by (key, event_us, partition, offset)."""
    return sorted(rows, key=lambda row: (row["key"], row["event_us"], row["partition"], row["offset"]))


def windows(rows: list[Row], spec: WindowSpec, aggs: Iterable[Agg]) -> list[Row]:
    """All windows of accepted rows, by (end_us, key)."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for key in sorted({row["key"] for row in rows}):
        of_key = [row for row in canonical(rows) if row["key"] == key]
        if spec.kind == "session":
            runs: list[list[Row]] = []
            for row in of_key:
                if runs and row["event_us"] - runs[-1][-1]["event_us"] < spec.gap_us:
                    runs[-1].append(row)
                else:
                    runs.append([row])
            for run in runs:
                groups[key, run[0]["event_us"], run[-1]["event_us"] + spec.gap_us] = run
        elif spec.kind == "count":
            for first in range(0, len(of_key) - spec.rows + 1, spec.rows):
                run = of_key[first : first + spec.rows]
                # The place in the sequence keeps apart windows of one instant.
                groups[key, run[0]["event_us"] + first / 1e6, run[-1]["event_us"] + 1] = run  # type: ignore[index]
        else:
            for row in of_key:
                for start, end in grid_windows(row, spec):
                    if end > row["mark_us"]:
                        groups.setdefault((key, start, end), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: (item[0][2], item[0][0], item[0][1]))
    return [_window(key, int(start), end, of, aggs) for (key, start, end), of in ordered]


def _window(key: str, start_us: int, end_us: int, rows: list[Row], aggs: Iterable[Agg]) -> Row:
    offsets = []
    for partition in sorted({row["partition"] for row in rows}):
        of = [row["offset"] for row in rows if row["partition"] == partition]
        offsets.append({"partition": partition, "first": min(of), "last": max(of)})
    window = {"key": key, "start_us": start_us, "end_us": end_us, "rows": len(rows), "offsets": offsets}
    for agg in aggs:
        present = [(row["event_us"], row[agg.field]) for row in rows if row[agg.field] is not None]
        window[agg.out] = value_of(agg, [t for t, _ in present], [x for _, x in present], end_us)
    return window


def value_of(agg: Agg, times: list[int], values: list[Any], end_us: int) -> Any:
    """One aggregate of the values that are present, in order."""
    n = len(values)
    if agg.fn == "count":
        return n
    if n == 0:
        return None
    simple = {"first": values[0], "last": values[-1], "last_us": times[-1]}
    if agg.fn in simple:
        return simple[agg.fn]
    x = [float(value) for value in values]
    arg = agg.arg or 0.0
    mean = math.fsum(x) / n
    if agg.fn in ("sum", "mean", "min", "max"):
        return {"sum": math.fsum(x), "mean": mean, "min": min(x), "max": max(x)}[agg.fn]
    if agg.fn in ("var", "std"):
        if n == 1:
            return None
        var = math.fsum((value - mean) ** 2 for value in x) / (n - 1)
        return var if agg.fn == "var" else math.sqrt(var)
    if agg.fn in ("median", "quantile"):
        place = (n - 1) * (0.5 if agg.fn == "median" else arg)
        low, high = sorted(x)[math.floor(place)], sorted(x)[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))
    if agg.fn == "fraction_above":
        return sum(value > arg for value in x) / n
    if agg.fn == "fraction_below":
        return sum(value < arg for value in x) / n
    return _over_time(agg, times, x, mean, end_us)


def _over_time(agg: Agg, times: list[int], x: list[float], mean: float, end_us: int) -> float | None:
    if agg.fn == "time_weighted_mean":
        held = [after - before for before, after in pairwise([*times, end_us])]
        return math.fsum(h * value for h, value in zip(held, x, strict=True)) / sum(held)
    if agg.fn == "ewma":
        weights = [0.5 ** ((times[-1] - t) / 1e6 / (agg.arg or 0.0)) for t in times]
        return math.fsum(w * value for w, value in zip(weights, x, strict=True)) / math.fsum(weights)
    assert agg.fn == "slope", agg.fn
    middle = sum(times) / len(times)
    seconds = [(t - middle) / 1e6 for t in times]
    spread = math.fsum(s * s for s in seconds)
    if times[0] == times[-1]:
        return None
    return math.fsum(s * (value - mean) for s, value in zip(seconds, x, strict=True)) / spread


def as_of(rows: list[Row], key: str, end_us: int) -> Row | None:
    """The context row that counts for a window ending at `end_us`."""
    known = [row for row in rows if row["key"] == key and max(row["event_us"], row["mark_us"]) < end_us]
    if not known:
        return None
    return max(known, key=lambda r: (r["event_us"], max(r["event_us"], r["mark_us"]), r["partition"], r["offset"]))


def median(values: list[float]) -> float | None:
    """The middle value, or the mean of the two; None of none."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else None
