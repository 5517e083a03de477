"""Cells of a CSV, Parquet or Arrow frame -> the dtypes of a stream; a cell that does not convert costs its row only."""

import polars as pl

from operators.columnar.checks import SHOWN_CHARS, Fault
from operators.columnar.long_rows import truth, whole

BROKEN = "~broken"
"""Column in which a reader says true of a row that it could not split into cells; else null."""


def to_dtypes(frame: pl.DataFrame, schema: pl.Schema, ts: str) -> tuple[pl.DataFrame, list[Fault]]:
    """Columns of `schema` out of `frame`, absent ones null, and the faults: wrong_type or not_json.

    Text is read strictly: no white space, `true`/`false`/`1`/`0` for booleans; empty text is null. A typed number
    fits a number's column unless it loses its fraction. The column `ts` keeps its dtype.
    """
    faults: list[Fault] = []
    columns: list[pl.Series] = []
    for name, dtype in schema.items():
        if name not in frame.columns:
            columns.append(pl.Series(name, [None], dtype=dtype).new_from_index(0, frame.height))
            continue
        cells = frame[name]
        if cells.dtype == pl.String:
            cells = pl.select(pl.when(cells != "").then(cells).alias(name)).to_series()
        column = cells if name == ts else pl.select(_converted(cells, dtype).alias(name)).to_series()
        if column.null_count() > cells.null_count():
            bad = (column.is_null() & cells.is_not_null()).arg_true()
            noun = {pl.Float64(): "a number", pl.Int64(): "a whole number", pl.Boolean(): "true or false"}.get(
                dtype, "text"
            )
            faults += [(row, "wrong_type", f"{name} {str(cells[row])[:SHOWN_CHARS]!r} is not {noun}") for row in bad]
        columns.append(column)
    if BROKEN in frame.columns:
        faults += [(row, "not_json", "not a row of this header") for row in frame[BROKEN].is_not_null().arg_true()]
    return pl.DataFrame(columns), faults


def _converted(cells: pl.Series, dtype: pl.DataType) -> pl.Expr:
    source, value = cells.dtype, pl.lit(cells)
    if source == dtype or source == pl.Null:
        return value.cast(dtype)
    if (
        source.is_nested()
        or source in (pl.Binary, pl.Object)
        or (dtype.is_numeric() and (source.is_temporal() or source == pl.Boolean))
    ):
        return pl.lit(pl.Series([None], dtype=dtype).new_from_index(0, len(cells)))
    text = value.cast(pl.String, strict=False)
    if dtype == pl.String:
        return text
    if dtype == pl.Boolean:
        return truth(text)
    if source.is_numeric():
        return (
            whole(value.cast(pl.Float64))
            if source.is_float() and dtype == pl.Int64
            else value.cast(dtype, strict=False)
        )
    number = text.cast(dtype, strict=False)
    return pl.when(number.is_finite()).then(number) if dtype == pl.Float64 else number
