"""Bytes or cells of one stream -> checked rows and rejects. Bad input is data: it costs its own row, and never raises.

Every row takes one of three ways out: `rows`, `rejects`, or the count of rows that a mapping only checks.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl

from operators.columnar.cells import BROKEN, to_dtypes
from operators.columnar.checks import (
    ANY_LENGTH,
    DTYPES,
    NO_REJECTS,
    REJECTS,
    Check,
    Fault,
    applicable,
    checks_of,
    explain,
    shown,
)
from operators.columnar.grouping import Ints
from operators.columnar.json_lines import NUMBER_CHARS_MAX, parse_lines
from operators.columnar.long_rows import LONG_CHECKS, LongRows
from operators.columnar.mapping import Clock, Columns, Mapping
from operators.columnar.timestamps import UNITS, event_us
from schemas.errors import UsageError
from schemas.fields import fields_of
from schemas.streams import Stream

RESERVED = {"key", "event_us", "offset", "mark_us", "partition"}
HALVED_LINES = 4_000
"""So many lines or more are parsed in two halves: a bad one costs its half a second time, each call 0.2 ms."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded batch; rows.height + rejects.height + checked is the number of rows that came in.

    rows: key String, event_us Int64, offset Int64, then the stream's other fields; order of arrival.
    rejects: columns of `checks.REJECTS`; order of arrival.
    checked: rows of names that a mapping checks and does not use, whose value was in its range.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    checked: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """Where a batch stands, the bytes of its rows, counted from 0, and the most characters a text in it can have."""

    first_offset: int
    raw: Callable[[int], bytes]
    chars_max: int


class Codec:
    """Decoder of one stream.

    ts_unit: s, ms, us or ns, of a `ts` that is an integer. line_bytes_max: a longer line is refused unread; also the
    most characters of a text field without a limit of its own. mapping: how an archive's rows become ours.
    Errors: UsageError for a mapping that does not fit the stream, TypeError for a model that columns cannot check.
    """

    def __init__(self, stream: Stream, *, ts_unit: str, line_bytes_max: int, mapping: Mapping | None = None) -> None:
        assert ts_unit in UNITS, ts_unit
        layout = mapping.streams.get(stream.name) if mapping else None
        columns = layout.columns if layout else Columns()
        specs = fields_of(stream.model)
        fields = {name: spec for name, spec in specs.items() if name not in ("ts", stream.key)}
        if RESERVED & set(fields):
            raise TypeError(
                f"{stream.model.__name__} has a field named {', '.join(RESERVED & set(fields))}: the name is taken"
            )
        self._clock = layout.clock if layout else Clock()
        self._ts_unit, self._line_bytes_max = ts_unit, line_bytes_max
        self._fields = list(fields)
        self._measures = [name for name, spec in fields.items() if spec.measured]
        self._texts = ["key", *(name for name, spec in fields.items() if spec.kind == "str" and not spec.choices)]
        self._sources = {"~ts": columns.ts, "key": columns.key or stream.key}
        extra = {"~name": columns.name, "~value": columns.value, "~unit": columns.unit}
        has_units = any(spec.unit for spec in fields.values())
        self._long = LongRows(fields, layout) if has_units and not set(extra.values()) & set(fields) else None
        if self._long:
            self._sources |= extra
        if len({*self._sources.values(), *fields}) < len(self._sources) + len(fields):
            raise UsageError(
                f"streams.{stream.name}.columns in the mapping: two columns have one name, or a column a field's name"
            )
        self._sources |= {name: name for name in fields}
        dtypes = {name: DTYPES[spec.kind] for name, spec in fields.items()}
        self._schema = pl.Schema({source: dtypes.get(name, pl.String()) for name, source in self._sources.items()})
        self._whole_times = pl.Schema({**self._schema, columns.ts: pl.Int64()})
        self._likely = self._whole_times
        self._first_checks = self._time_checks(columns.ts)
        self._checks = checks_of(replace(specs[stream.key], min_len=1), line_bytes_max, column="key")
        for spec in fields.values():
            self._checks += checks_of(spec, line_bytes_max)

    def decode_lines(self, lines: Sequence[bytes], first_offset: int) -> Decoded:
        """Decode JSON lines (no line ends) that stand at first_offset, first_offset + 1, ... in their partition."""
        frames, faults, nested = list[pl.DataFrame](), list[Fault](), False
        step = len(lines) if len(lines) < HALVED_LINES else (len(lines) + 1) // 2
        for start in range(0, len(lines), step) if step else [0]:
            piece = lines[start : start + step]
            parsed = parse_lines(piece, self._schema, self._likely, self._line_bytes_max)
            self._likely = self._schema_of(parsed.frame)
            frames.append(parsed.frame)
            faults += [(start + row, reason, detail) for row, reason, detail in parsed.faults]
            nested = nested or parsed.may_hold_no_text
        offset = np.arange(first_offset, first_offset + len(lines))
        frame = self._timed(
            self._joined(frames), np.delete(offset, [row for row, _, _ in faults]) if faults else offset
        )
        batch = _Batch(first_offset, lines.__getitem__, max(self._line_bytes_max, NUMBER_CHARS_MAX))
        return self._finish(frame, faults, batch, self._doubts(frame, nested))

    def _schema_of(self, parsed: pl.DataFrame) -> pl.Schema:
        """The schema under which the next piece is likely to parse: integer times are cheaper than their digits."""
        ts = parsed[self._sources["~ts"]]
        if ts.dtype == pl.Int64:
            return self._whole_times
        first = ts.first() if parsed.height else None
        return self._whole_times if isinstance(first, str) and first.isdigit() else self._schema

    def _joined(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        if len(frames) == 1:
            return frames[0]
        ts = self._sources["~ts"]
        if len({frame.schema[ts] for frame in frames}) > 1:
            frames = [frame.cast({ts: pl.String}) for frame in frames]
        return pl.concat(frames, rechunk=True)

    def decode_frame(self, frame: pl.DataFrame, first_offset: int, raw: Callable[[int], bytes]) -> Decoded:
        """Decode rows that are cells: text throughout (CSV; empty is null) or typed (Parquet, Arrow).

        raw: number of a row in `frame` -> what its reject keeps of it, asked only for those.
        """
        typed, faults = to_dtypes(frame, self._schema, self._sources["~ts"])
        cells = self._timed(typed, np.arange(first_offset, first_offset + frame.height))
        unknown = [name for name in frame.columns if name not in self._schema and name != BROKEN]
        if self._long and unknown and not set(self._measures) & set(frame.columns):
            bare = cells.filter(pl.col("~name").is_null() & pl.col("~value").is_null())
            faults += [(row - first_offset, "unknown_name", _strangers(unknown)) for row in bare["offset"]]
        return self._finish(cells, faults, _Batch(first_offset, raw, ANY_LENGTH))

    def _timed(self, frame: pl.DataFrame, offset: Ints) -> pl.DataFrame:
        """Our names for the columns of `self._schema`, in whose order they stand, with event_us and offset."""
        columns = [column.alias(name) for name, column in zip(self._sources, frame.get_columns(), strict=True)]
        time_us = event_us(columns[0], self._ts_unit, self._clock).alias("event_us")
        return pl.DataFrame([*columns, time_us, pl.Series("offset", offset)])

    def _doubts(self, frame: pl.DataFrame, nested: bool) -> list[pl.Expr]:
        """Rows that the JSON parser passed and that may be wrong: text that may be none, rows without measure."""
        doubts = list[pl.Expr]()
        for name in self._texts:
            column = frame[name]
            if column.null_count() == len(column):
                continue
            doubts += [pl.col(name) == word for word in ("true", "false") if (column == word).any()]
            if nested:
                doubts += [pl.col(name).str.starts_with(bracket) for bracket in ("[", "{")]
        if nested:  # the parser makes half of a surrogate pair a NUL: two such keys would become one
            doubts.append(pl.col("key").str.contains("\0", literal=True))
        names = [*self._measures, "~name", "~value"]
        if self._long and all(frame[name].null_count() for name in names):
            doubts.append(pl.all_horizontal(pl.col(name).is_null() for name in names))
        return doubts

    def _second_look(self, row: int, line: bytes) -> list[Fault]:
        """Read a line again for what columns do not show: text that is none, and names that are all unknown."""
        value = _object(line)
        for name in self._texts:
            source = self._sources[name]
            if isinstance(value.get(source), bool | list | dict):
                return [(row, "wrong_type", f"{source} is not text")]
        key = value.get(self._sources["key"])
        if isinstance(key, str) and any("\ud800" <= character <= "\udfff" for character in key):
            return [(row, "wrong_type", f"{self._sources['key']} holds half a surrogate pair: no character")]
        unknown = [name for name in value if name not in self._schema]
        known = [name for name in (*self._measures, self._sources.get("~name")) if name in value]
        return [(row, "unknown_name", _strangers(unknown))] if self._long and unknown and not known else []

    def _finish(
        self, frame: pl.DataFrame, faults: list[Fault], batch: "_Batch", doubts: Sequence[pl.Expr] = ()
    ) -> Decoded:
        """Check `frame`. faults: rows that are out already; of several faults of a row the first counts."""
        first, raw = batch.first_offset, batch.raw
        checks = [*self._first_checks, *self._checks]
        if self._long and frame["~name"].null_count() + frame["~value"].null_count() < 2 * frame.height:
            frame = self._long.unfold(frame)
            checks = [*self._first_checks, *LONG_CHECKS, *self._checks]
        bad = [*(check.bad for check in applicable(frame, checks, batch.chars_max)), *doubts]
        mask = frame.select(pl.any_horizontal(bad).fill_null(False)).to_series() if bad else None
        if mask is not None and mask.any():
            suspects = frame.filter(mask).with_columns(pl.col("offset") - first)
            if doubts:
                doubted = suspects.filter(pl.any_horizontal(doubts))["offset"]
                faults += [fault for row in doubted for fault in self._second_look(row, raw(row))]
            faults += explain(suspects, checks)
        rejects, checked = {row: (reason, detail) for row, reason, detail in reversed(faults)}, 0
        if rejects:
            stays = np.isin(frame["offset"].to_numpy(), [row + first for row in rejects], invert=True)
            frame = frame if stays.all() else frame.filter(pl.Series(stays))  # bad JSON never was in it
        if "~checked" in frame.columns:
            checked = int(frame["~checked"].sum())
            frame = frame.filter(~pl.col("~checked"))
        rows = frame[["key", "event_us", "offset", *self._fields]]
        if not rejects:
            return Decoded(rows, NO_REJECTS, checked)
        places = sorted(rejects)
        reasons, details = zip(*map(rejects.__getitem__, places), strict=True)
        kept = {"offset": [row + first for row in places], "reason": reasons, "detail": details}
        return Decoded(rows, pl.DataFrame(kept | {"raw": list(map(raw, places))}, REJECTS), checked)

    def _time_checks(self, ts: str) -> list[Check]:
        clock = self._clock
        first, end = (datetime.fromtimestamp(bound / 1e6, UTC).date() for bound in clock.bounds_us)
        wanted = (
            f"written as {clock.format}" if clock.format else f"RFC 3339 with a zone, or an integer in {self._ts_unit}"
        )
        detail = pl.format(f"{ts} {{}} is no time in {first}..{end} ({wanted})", shown("~ts"))
        return [
            Check("~ts", pl.col("~ts").is_null(), "missing_field", pl.lit(f"{ts} is missing"), on_null=True),
            Check("event_us", pl.col("event_us").is_null(), "bad_time", detail, on_null=True),
        ]


def _object(line: bytes) -> dict[str, Any]:
    """A line that the strict parser has accepted; the standard parser reads what orjson is too strict for."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = json.loads(line)
    assert isinstance(value, dict)
    return value


def _strangers(names: Sequence[str]) -> str:
    shown_names = ", ".join(names[:5])[:200].encode("utf-8", "replace").decode()  # JSON can spell half a character
    return f"{shown_names}: no name of this stream"
