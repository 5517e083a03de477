"""Long rows (`name`, `value`, `unit`) -> the wide columns of a stream.

What one (name, unit) pair means is worked out once per batch; the rows are then computed column by column.
"""

from collections.abc import Mapping as Table
from dataclasses import asdict, dataclass

import polars as pl

from operators.columnar.checks import SHOWN_CHARS, Check, shown
from operators.columnar.mapping import Layout, Name
from schemas.errors import UsageError
from schemas.fields import FieldSpec

SPELLINGS = {
    **dict.fromkeys(("bpm", "beats/min", "insp/min", "breaths/min", "1/min", "min-1"), "/min"),
    **dict.fromkeys(("mmHg", "mm Hg"), "mm[Hg]"),
    **dict.fromkeys(("degC", "C", "°C", "deg C", "celsius"), "Cel"),
    **dict.fromkeys(("degF", "F", "°F", "deg F", "fahrenheit"), "[degF]"),
    **dict.fromkeys(("percent",), "%"),
    **dict.fromkeys(("l/min", "LPM", "lpm"), "L/min"),
    **dict.fromkeys(("score", "points"), "{score}"),
}
# (from, to) -> value = (x - shift) * factor, rounded to that many decimals
CONVERSIONS = {("[degF]", "Cel"): (32.0, 1 / 1.8, 2)}
SCALED_DECIMALS = 6  # 0.29 as a fraction is 29 %, not 28.999999999999996 %
_DECIMALS = sorted({SCALED_DECIMALS, *(decimals for _, _, decimals in CONVERSIONS.values())})
LONG_CHECKS = [
    Check("~reason", pl.col("~reason") == reason, reason, pl.col("~detail"))
    for reason in ("missing_field", "unknown_name", "unknown_unit", "wrong_type", "out_of_range")
]


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a (name, unit) pair stands for: a field and its arithmetic, or a range to check, or a fault."""

    target: str | None = None
    scale: float = 1.0
    shift: float = 0.0
    factor: float = 1.0
    decimals: int | None = None
    ge: float | None = None
    le: float | None = None
    reason: str | None = None
    detail: str | None = None


_SCHEMA = pl.Schema(
    {
        "target": pl.String(),
        **dict.fromkeys(("scale", "shift", "factor"), pl.Float64()),
        "decimals": pl.Int64(),
        "ge": pl.Float64(),
        "le": pl.Float64(),
        "reason": pl.String(),
        "detail": pl.String(),
    }
)


class LongRows:
    """How long rows of a stream are read. Errors: UsageError if the layout names a field that is no measure."""

    def __init__(self, fields: Table[str, FieldSpec], layout: Layout | None) -> None:
        self._measures = {name: spec for name, spec in fields.items() if spec.measured}
        self._layout = layout
        for source, entry in (layout.names or {}).items() if layout else ():
            if entry.field not in self._measures:
                raise UsageError(
                    f"names.{source}.field in the mapping: {entry.field!r} is not one of {', '.join(self._measures)}"
                )

    def unfold(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Put each long row's value into its measure's column.

        frame: columns ~name, ~value, ~unit (String) and the measures in their dtypes; other rows stay as they are.
        Adds: ~reason and ~detail (String, null where all is well), ~checked (true: in its range, makes no measure).
        """
        pairs = frame.select("~name", "~unit").unique()
        meanings = [self._meaning(name, unit or None) for name, unit in pairs.iter_rows()]
        table = pl.DataFrame([asdict(meaning) for meaning in meanings], schema=_SCHEMA).rename("~{}".format)
        table = pl.concat([pairs, table], how="horizontal")
        frame = frame.join(table, on=["~name", "~unit"], how="left", nulls_equal=True, maintain_order="left")
        number = pl.col("~value").cast(pl.Float64, strict=False)
        frame = frame.with_columns(pl.when(number.is_finite()).then(number).alias("~number"))
        converted = (pl.col("~number") * pl.col("~scale") - pl.col("~shift")) * pl.col("~factor")
        rounded = pl.coalesce(
            [pl.when(pl.col("~decimals") == digits).then(converted.round(digits)) for digits in _DECIMALS]
        )
        frame = frame.with_columns(rounded.fill_null(pl.col("~number")).alias("~result"))
        targets = sorted({meaning.target for meaning in meanings if meaning.target})
        frame = frame.with_columns(
            pl.when(pl.col("~target") == target).then(self._value(target)).otherwise(pl.col(target)).alias(target)
            for target in targets
        )
        return self._judge(frame, targets)

    def _value(self, target: str) -> pl.Expr:
        """The value of a long row in the dtype of its field; null where it cannot be."""
        spec = self._measures[target]
        if spec.kind == "str":
            return pl.col("~value")
        if spec.kind == "bool":
            return truth(pl.col("~value"))
        if spec.kind == "int":
            return whole(pl.col("~result"))
        return pl.col("~result")

    def _judge(self, frame: pl.DataFrame, targets: list[str]) -> pl.DataFrame:
        """Faults of long rows, the first that applies; the rest of a row is checked with all others."""
        name, value = shown("~name"), shown("~value")
        ranged, number = pl.col("~ge").is_not_null(), pl.col("~number")
        unread = [(pl.col("~target") == target) & pl.col(target).is_null() for target in targets]
        cases = [
            (
                pl.col("~name").is_null() & pl.col("~value").is_not_null(),
                "missing_field",
                pl.lit("a value without a name"),
            ),
            (
                pl.col("~name").is_not_null() & pl.col("~value").is_null(),
                "missing_field",
                pl.format("{} has no value", name),
            ),
            (
                pl.any_horizontal(*unread, ranged & number.is_null()),
                "wrong_type",
                pl.format("{} cannot be {}", name, value),
            ),
            (
                ranged & ~number.is_between("~ge", "~le"),
                "out_of_range",
                pl.format("{} {} is outside {}..{}", name, value, shown("~ge"), shown("~le")),
            ),
        ]
        frame = frame.with_columns(
            pl.coalesce("~reason", *(pl.when(bad).then(pl.lit(reason)) for bad, reason, _ in cases)).alias("~reason"),
            pl.coalesce("~detail", *(pl.when(bad).then(detail) for bad, _, detail in cases)).alias("~detail"),
        )
        return frame.with_columns((ranged & pl.col("~reason").is_null()).alias("~checked"))

    def _meaning(self, name: str | None, unit: str | None) -> _Meaning:
        if name is None:
            return _Meaning()
        layout = self._layout
        checked = layout.checked.get(name) if layout else None
        if checked is not None:
            if unit and checked.unit and _canonical(unit) != _canonical(checked.unit):
                return _unknown_unit(name, unit, checked.unit)
            return _Meaning(ge=checked.ge, le=checked.le)
        entry = Name(field=name) if layout is None or layout.names is None else layout.names.get(name)
        if entry is None or entry.field not in self._measures:
            return _Meaning(reason="unknown_name", detail=f"{name[:SHOWN_CHARS]!r} is not a name of this stream")
        wanted = self._measures[entry.field].unit
        given = unit or entry.unit
        if given is None or _canonical(given) == wanted:
            return _Meaning(entry.field, entry.scale, decimals=None if entry.scale == 1 else SCALED_DECIMALS)
        known = CONVERSIONS.get((_canonical(given), wanted or ""))
        return _Meaning(entry.field, entry.scale, *known) if known else _unknown_unit(name, given, wanted)


def truth(text: pl.Expr) -> pl.Expr:
    """`true`, `1`, `false`, `0` in any case -> Boolean, else null."""
    lower = text.str.to_lowercase()
    return pl.when(lower.is_in(["true", "1"])).then(True).when(lower.is_in(["false", "0"])).then(False)


def whole(number: pl.Expr) -> pl.Expr:
    """A Float64 that is a whole number -> Int64, else null."""
    return pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False)


def _canonical(unit: str) -> str:
    return SPELLINGS.get(unit, unit)


def _unknown_unit(name: str, unit: str, wanted: str | None) -> _Meaning:
    return _Meaning(
        reason="unknown_unit", detail=f"{name[:SHOWN_CHARS]} in {unit[:32]!r}: expected {wanted or 'no unit'}"
    )
