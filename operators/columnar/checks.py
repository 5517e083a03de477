"""Column checks compiled from fields: what makes a row bad, why, and in which words.

Every check is one expression, used twice: first all of them together, to learn whether any row is bad; then, over
the bad rows alone, one by one for the reason. To start the query engine takes as long as to parse three hundred rows,
so where a look at a column's extremes proves that it is good, the expression is not asked.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import polars as pl

from schemas.fields import FieldSpec

DTYPES: dict[str, pl.DataType] = {"float": pl.Float64(), "int": pl.Int64(), "str": pl.String(), "bool": pl.Boolean()}
REJECTS = pl.Schema({"offset": pl.Int64(), "reason": pl.String(), "detail": pl.String(), "raw": pl.Binary()})
NO_REJECTS = pl.DataFrame(schema=REJECTS)
Fault = tuple[int, str, str]
"""Position of a row in its batch, reason, detail."""
SHOWN_CHARS = 64
ANY_LENGTH = 2**63
Proof = Callable[[pl.Series, int], bool]
"""(column, most characters that a text in it can have) -> true where no row can fail; false says nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """bad: true where a row fails, false or null where it passes. detail: in words, for the rows that fail.

    column: what is looked at. on_null: a null fails and nothing else does; in other checks a null passes.
    proof: what shows, without the query engine, that the whole column passes.
    """

    column: str
    bad: pl.Expr
    reason: str
    detail: pl.Expr
    on_null: bool = False
    proof: Proof | None = None


def shown(column: str) -> pl.Expr:
    """A column's values in a message: cut short, whole numbers without a fraction, null as `nothing`."""
    return (
        pl.col(column).cast(pl.String).str.slice(0, SHOWN_CHARS).str.replace(r"^(-?\d+)\.0$", "$1").fill_null("nothing")
    )


def checks_of(spec: FieldSpec, text_chars_max: int, column: str | None = None) -> list[Check]:
    """The checks of one field, which stands in `column` (default: its name) in its dtype.

    Text without a limit of its own gets `text_chars_max`. Reasons: missing_field (required, or empty text),
    out_of_range (range, or a number that is no choice; NaN and infinity are outside every range), wrong_type (text
    that is no choice), too_long.
    """
    name, at = spec.name, column or spec.name
    value, words, found = pl.col(at), shown(at), list[Check]()
    if spec.required:
        found.append(Check(at, value.is_null(), "missing_field", pl.lit(f"{name} is missing"), on_null=True))
    if spec.choices is not None:
        reason = "wrong_type" if spec.kind == "str" else "out_of_range"
        detail = pl.format(f"{name} {{}} is none of {' '.join(map(str, spec.choices))}", words)
        found.append(Check(at, ~value.is_in(list(spec.choices)), reason, detail, proof=_proof_of_choice(spec.choices)))
    elif spec.kind == "str":
        length, limit = value.str.len_chars(), spec.max_len or text_chars_max
        detail = pl.format(f"{name} has {{}} characters, not {spec.min_len or 0}..{limit}", length)
        found.append(Check(at, length > limit, "too_long", detail, proof=lambda _, chars_max: chars_max <= limit))
        if spec.min_len:
            proof = _proof_of_text if spec.min_len == 1 else None
            found.append(Check(at, length < spec.min_len, "missing_field", detail, proof=proof))
    elif spec.kind != "bool":
        inside = _inside(spec, value)
        if inside is not None:
            detail = pl.format(f"{name} {{}}{_unit(spec)} is outside {_span(spec)}", words)
            found.append(Check(at, ~inside, "out_of_range", detail, proof=_proof_of_range(spec)))
    return found


def _proof_of_choice(choices: Collection[str | int]) -> Proof:
    def proof(column: pl.Series, _: int) -> bool:
        chosen = sum(int((column == choice).sum()) for choice in choices)
        return chosen == len(column) - column.null_count()

    return proof


def _proof_of_text(column: pl.Series, _: int) -> bool:
    return not (column == "").any()


def _proof_of_range(spec: FieldSpec) -> Proof:
    low, high = -math.inf if spec.ge is None else spec.ge, math.inf if spec.le is None else spec.le

    def proof(column: pl.Series, _: int) -> bool:
        # A minimum passes over NaN; a sum does not, nor over infinity.
        least, most = column.min(), column.max()
        assert isinstance(least, int | float), column.name
        assert isinstance(most, int | float), column.name
        return low <= least and most <= high and (spec.kind == "int" or math.isfinite(column.sum()))

    return proof


def _inside(spec: FieldSpec, value: pl.Expr) -> pl.Expr | None:
    if spec.ge is not None and spec.le is not None:
        return value.is_between(spec.ge, spec.le)
    parts = [value.is_finite()] if spec.kind == "float" else []
    parts += [value >= spec.ge] if spec.ge is not None else []
    parts += [value <= spec.le] if spec.le is not None else []
    return pl.all_horizontal(parts) if parts else None


def _unit(spec: FieldSpec) -> str:
    return f" {spec.unit}" if spec.unit and not spec.unit.startswith("{") else ""


def _span(spec: FieldSpec) -> str:
    low, high = ("" if bound is None else f"{bound:g}" for bound in (spec.ge, spec.le))
    return f"{low}..{high}" if low or high else "all finite numbers"


def applicable(frame: pl.DataFrame, checks: Iterable[Check], chars_max: int = ANY_LENGTH) -> list[Check]:
    """The checks that can fail at all: presence where something is null, the others where something is not.

    chars_max: no text in `frame` has more characters.
    """
    columns = {column.name: column for column in frame.get_columns()}
    nulls = {name: column.null_count() for name, column in columns.items()}
    return [
        check
        for check in checks
        if (nulls[check.column] > 0 if check.on_null else nulls[check.column] < frame.height)
        and not (check.proof and check.proof(columns[check.column], chars_max))
    ]


def explain(suspects: pl.DataFrame, checks: Iterable[Check]) -> list[Fault]:
    """(offset, reason, detail) of every row of `suspects` that fails; the first check that fails names the reason."""
    checks = applicable(suspects, checks)
    if not checks:
        return []
    verdict = pl.coalesce(
        pl.when(check.bad).then(pl.struct(pl.lit(check.reason).alias("reason"), check.detail.alias("detail")))
        for check in checks
    )
    return suspects.select("offset", verdict.alias("verdict")).drop_nulls().unnest("verdict").rows()
