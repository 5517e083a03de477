"""NEWS2 against the dullest reading of the published table, one row at a time."""

from decimal import ROUND_HALF_UP, Decimal
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.columnar.news2 import PARTS, half_up, score, score_rows
from schemas.ward import ACTIONS

NORMAL = {"rr": 16, "spo2": 97, "oxygen": False, "sbp": 120, "hr": 70, "acvpu": "A", "temp": 37.0}
SCHEMA = {
    "rr": pl.Float64,
    "spo2": pl.Float64,
    "spo2_scale": pl.Int64,
    "oxygen": pl.Boolean,
    "sbp": pl.Float64,
    "hr": pl.Float64,
    "acvpu": pl.String,
    "temp": pl.Float64,
}
Row = dict[str, Any]


def rounded(value: float, step: str) -> Decimal:
    return Decimal(repr(value)).quantize(Decimal(step), ROUND_HALF_UP)


def points_rr(value: Decimal) -> int:
    if value <= 8:
        return 3
    if 9 <= value <= 11:
        return 1
    if 12 <= value <= 20:
        return 0
    if 21 <= value <= 24:
        return 2
    return 3


def points_scale_1(value: Decimal) -> int:
    if value <= 91:
        return 3
    if value <= 93:
        return 2
    if value <= 95:
        return 1
    return 0


def points_scale_2(value: Decimal, oxygen: bool | None) -> int | None:
    if value <= 83:
        return 3
    if value <= 85:
        return 2
    if value <= 87:
        return 1
    if value <= 92:
        return 0
    if oxygen is None:
        return None
    if not oxygen:
        return 0
    if value <= 94:
        return 1
    if value <= 96:
        return 2
    return 3


def points_sbp(value: Decimal) -> int:
    if value <= 90:
        return 3
    if value <= 100:
        return 2
    if value <= 110:
        return 1
    if value <= 219:
        return 0
    return 3


def points_hr(value: Decimal) -> int:
    if value <= 40:
        return 3
    if value <= 50:
        return 1
    if value <= 90:
        return 0
    if value <= 110:
        return 1
    if value <= 130:
        return 2
    return 3


def points_temp(value: Decimal) -> int:
    if value <= Decimal("35.0"):
        return 3
    if value <= Decimal("36.0"):
        return 1
    if value <= Decimal("38.0"):
        return 0
    if value <= Decimal("39.0"):
        return 1
    return 2


def parts_of(row: Row) -> dict[str, int | None]:
    parts: dict[str, int | None] = dict.fromkeys(PARTS)
    if row["rr"] is not None:
        parts["rr"] = points_rr(rounded(row["rr"], "1"))
    if row["spo2"] is not None:
        spo2 = rounded(row["spo2"], "1")
        parts["spo2"] = points_scale_2(spo2, row["oxygen"]) if row.get("spo2_scale") == 2 else points_scale_1(spo2)
    if row["oxygen"] is not None:
        parts["oxygen"] = 2 if row["oxygen"] else 0
    if row["sbp"] is not None:
        parts["sbp"] = points_sbp(rounded(row["sbp"], "1"))
    if row["hr"] is not None:
        parts["hr"] = points_hr(rounded(row["hr"], "1"))
    if row["acvpu"] is not None:
        parts["acvpu"] = 0 if row["acvpu"] == "A" else 3
    if row["temp"] is not None:
        parts["temp"] = points_temp(rounded(row["temp"], "0.1"))
    return parts


def oracle(row: Row) -> Row:
    parts = parts_of(row)
    known = [points for points in parts.values() if points is not None]
    missing = [name for name in PARTS if parts[name] is None]
    if sum(known) >= 7:
        trigger = "emergency"
    elif sum(known) >= 5:
        trigger = "urgent"
    elif 3 in known:
        trigger = "review"
    else:
        trigger = "nurse" if sum(known) else "none"
    total = None if missing else sum(known)
    return {"id": row.get("id"), "score": total, "parts": parts, "trigger": trigger, "missing": missing}


def by_frame(rows: list[Row]) -> list[Row]:
    frame = pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)
    return [
        {
            "id": row.get("id"),
            "score": out["score"],
            "parts": {name: out[f"part.{name}"] for name in PARTS},
            "trigger": ACTIONS[out["trigger"]],
            "missing": out["missing"],
        }
        for row, out in zip(rows, score(frame).iter_rows(named=True), strict=True)
    ]


def every_step() -> list[Row]:
    rows: list[Row] = [{**NORMAL, "hr": value} for value in range(301)]
    rows += [{**NORMAL, "rr": value} for value in range(91)]
    rows += [{**NORMAL, "sbp": value} for value in range(321)]
    rows += [
        {**NORMAL, "spo2": value, "spo2_scale": scale, "oxygen": oxygen}
        for value, scale, oxygen in product(range(101), (None, 1, 2), (True, False, None))
    ]
    rows += [{**NORMAL, "temp": hundredths / 100} for hundredths in range(2500, 4501)]
    rows += [{**NORMAL, name: tenths / 10} for name in ("hr", "rr", "spo2", "sbp") for tenths in range(1001)]
    rows += [{**NORMAL, "acvpu": letter} for letter in ("A", "C", "V", "P", "U", None)]
    return [{"id": number, **row} for number, row in enumerate(rows)]


def test_every_step_of_every_parameter_scores_as_the_table_says() -> None:
    rows = every_step()
    expected = [oracle(row) for row in rows]
    assert score_rows(rows) == expected
    assert by_frame(rows) == expected


number = st.one_of(st.none(), st.floats(0, 50), st.integers(0, 330))
observed = st.fixed_dictionaries(
    {
        "id": st.integers(),
        "rr": number,
        "spo2": st.one_of(st.none(), st.floats(80, 100)),
        "spo2_scale": st.sampled_from([None, 1, 2]),
        "oxygen": st.sampled_from([None, True, False]),
        "sbp": number,
        "hr": number,
        "acvpu": st.sampled_from([None, *"ACVPU"]),
        "temp": st.one_of(st.none(), st.floats(34, 40), st.decimals(34, 40, places=2).map(float)),
    }
)


@settings(max_examples=50, deadline=None)
@given(st.lists(observed, min_size=1, max_size=20))
def test_any_mix_of_values_and_gaps_scores_as_the_table_says(rows: list[Row]) -> None:
    expected = [oracle(row) for row in rows]
    assert score_rows(rows) == expected
    assert by_frame(rows) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 400), st.decimals(0, 400, places=2).map(float)), min_size=1, max_size=50))
def test_halves_round_up_as_the_decimals_read(values: list[float]) -> None:
    for steps, step in ((1, "1"), (10, "0.1")):
        assert half_up(np.array(values), steps).tolist() == [float(rounded(value, step)) for value in values]


@pytest.mark.parametrize(
    ("value", "steps", "expected"),
    [(36.05, 10, 36.1), (36.049999, 10, 36.0), (35.04, 10, 35.0), (90.5, 1, 91.0), (0.49999999999999994, 1, 0.0)],
)
def test_a_value_between_two_bands_is_rounded_before_it_is_scored(value: float, steps: int, expected: float) -> None:
    assert half_up(np.array([value]), steps)[0] == expected


def test_the_welsh_sample_is_five_and_not_the_six_it_was_published_with() -> None:
    (out,) = score_rows(
        [{"id": "n5", "rr": 21, "spo2": 93, "oxygen": False, "sbp": 120, "hr": 95, "acvpu": "A", "temp": 37.5}]
    )
    assert out == {
        "id": "n5",
        "score": 5,
        "parts": {"rr": 2, "spo2": 2, "oxygen": 0, "sbp": 0, "hr": 1, "acvpu": 0, "temp": 0},
        "trigger": "urgent",
        "missing": [],
    }


def test_the_norwegian_sample_scores_one_for_93_on_oxygen_and_three_only_from_97() -> None:
    worst = {"rr": 25, "spo2_scale": 2, "oxygen": True, "sbp": 90, "hr": 131, "acvpu": "U", "temp": 35.0}
    at_93, at_97 = score_rows([{**worst, "spo2": 93}, {**worst, "spo2": 97}])
    assert (at_93["parts"]["spo2"], at_93["score"]) == (1, 18)
    assert (at_97["parts"]["spo2"], at_97["score"]) == (3, 20)


def test_a_missing_part_gives_no_score_but_what_is_known_still_triggers() -> None:
    gone = {**NORMAL, "temp": None}
    outs = score_rows([gone, {**gone, "hr": 131}, {**gone, "hr": 131, "oxygen": True}, {}])
    assert [out["score"] for out in outs] == [None] * 4
    assert [out["trigger"] for out in outs] == ["none", "review", "urgent", "none"]
    assert [out["missing"] for out in outs] == [["temp"]] * 3 + [list(PARTS)]


@pytest.mark.parametrize("value", [-1, -0.01, float("nan"), float("inf"), "97", True, [97], {}, 10**400])
def test_what_is_not_a_usable_number_counts_as_missing(value: object) -> None:
    for name in ("rr", "spo2", "sbp", "hr", "temp"):
        (out,) = score_rows([{**NORMAL, name: value}])
        assert (out["score"], out["missing"]) == (None, [name])


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_unusable_number_in_a_column_counts_as_missing(value: float) -> None:
    (out,) = by_frame([{**NORMAL, "sbp": value}])
    assert out["missing"] == ["sbp"]


@pytest.mark.parametrize(
    ("field", "value", "missing"),
    [
        ("spo2", 100.4, ["spo2"]),
        ("oxygen", 1, ["oxygen"]),
        ("oxygen", "yes", ["oxygen"]),
        ("acvpu", "a", ["acvpu"]),
        ("acvpu", "Alert", ["acvpu"]),
        ("acvpu", 0, ["acvpu"]),
        ("spo2_scale", 3, ["spo2"]),
        ("spo2_scale", "2", ["spo2"]),
        ("spo2_scale", True, ["spo2"]),
        ("spo2_scale", 1.5, ["spo2"]),
    ],
)
def test_a_value_outside_what_the_table_knows_is_not_guessed(field: str, value: object, missing: list[str]) -> None:
    (out,) = score_rows([{**NORMAL, field: value}])
    assert out["missing"] == missing


def test_a_row_that_is_no_object_is_answered_in_its_place() -> None:
    outs = score_rows([[1, 2], None, {**NORMAL, "id": "b"}])
    assert [(out["id"], out["score"]) for out in outs] == [(None, None), (None, None), ("b", 0)]


def test_columns_that_hold_nothing_at_all_are_missing() -> None:
    out = score(pl.DataFrame({name: [None, None] for name in SCHEMA}))
    assert out["missing"].to_list() == [list(PARTS)] * 2
    assert out["score"].dtype == pl.Int64
    assert score(pl.DataFrame(schema=SCHEMA)).height == 0
