"""Rows into groups: a stable order by several whole-number columns, the runs in it, and a choice among the runs."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def run_bounds(values: Ints, breaks: NDArray[np.bool_] | None = None) -> Ints:
    """Bounds of the runs of equal values, (n,) -> (runs + 1,). breaks (n - 1,): where a run ends in any case."""
    changes = values[1:] != values[:-1]
    if breaks is not None:
        changes |= breaks
    return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(values)]])[: None if len(values) else 1]


def order_by(*columns: Ints) -> Ints:
    """A stable order by `columns`, the first one most significant, (n,) each -> (n,).

    The columns and the row number are packed into one integer, as narrow as they allow, so that one fast sort of plain
    integers does it; where they do not fit, the last column is sorted first.
    """
    rows = len(columns[0])
    if rows < 2:
        return np.arange(rows)
    lows = [int(column.min()) for column in columns]
    widths = [(int(column.max()) - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    place = (rows - 1).bit_length()
    if sum(widths) + place > 63:
        if len(columns) == 1:
            return np.argsort(columns[0], kind="stable")
        last = order_by(columns[-1])
        return last[order_by(*(column[last] for column in columns[:-1]))]
    packed = columns[0] - lows[0]
    for column, low, width in zip(columns[1:], lows[1:], widths[1:], strict=True):
        packed <<= width
        packed |= column - low
    packed <<= place
    packed |= np.arange(rows)
    packed.sort()
    return packed & ((1 << place) - 1)


def take_groups(at: Ints, bounds: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """The rows and bounds of the groups `chosen`, in that order."""
    size = np.diff(bounds)[chosen]
    new = np.concatenate([[0], np.cumsum(size)])
    return at[np.arange(new[-1]) + np.repeat(bounds[:-1][chosen] - new[:-1], size)], new


def offset_ranges(partition: NDArray[np.uint16], offset: Ints, bounds: Ints) -> pl.Series:
    """List of struct{partition, first, last} for each group: of each partition its smallest and largest offset.

    partition, offset (n,): group after group. bounds (g + 1,): of the groups, none empty.
    """
    start = bounds[:-1]
    group = np.arange(len(start))
    if len(start) and partition.min() != partition.max():
        of_row = np.repeat(group, np.diff(bounds))
        cell = of_row * 65_536 + partition
        order = order_by(cell)
        cell, partition, offset, of_row = cell[order], partition[order], offset[order], of_row[order]
        start = run_bounds(cell)[:-1]
        group = of_row[start]
    least, most = np.minimum.reduceat(offset, start), np.maximum.reduceat(offset, start)
    columns = {"partition": partition[start], "first": least, "last": most}
    entries = pl.DataFrame([pl.Series(name, values) for name, values in columns.items()]).to_struct("offsets")
    if len(entries) == len(bounds) - 1:
        return entries.reshape((-1, 1)).cast(pl.List(entries.dtype))
    return (
        pl.DataFrame([pl.Series("group", group), entries])
        .group_by("group", maintain_order=True)
        .agg("offsets")["offsets"]
    )
