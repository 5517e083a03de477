"""The ward's rule columns against dull code row by row; its gate table line by line; its sentences."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.columnar import news2
from operators.domain import Judgement
from operators.ward import CARRIED, judge, ward_rule
from schemas.ward import ACTIONS, LABELS

END_US = 1_000
STALE_US = {"rr": 100, "spo2": 110, "oxygen": 200, "sbp": 300, "hr": 120, "acvpu": 250, "temp": 400}
DTYPES = {"acvpu": pl.String, "oxygen": pl.Boolean}
SCHEMA: dict[str, Any] = {
    "key": pl.String,
    "end_us": pl.Int64,
    **{f"{field}.last": DTYPES.get(field, pl.Float64) for field in CARRIED},
    **{f"{field}.last_us": pl.Int64 for field in CARRIED},
    **{f"{field}.median": pl.Float64 for field in ("hr", "rr", "spo2")},
    **{f"{field}.baseline": pl.Float64 for field in ("hr", "sbp")},
    "spo2_scale": pl.Int64,
}
NORMAL = {"rr": 16.0, "spo2": 97.0, "oxygen": False, "sbp": 120.0, "hr": 70.0, "acvpu": "A", "temp": 37.0}
Row = dict[str, Any]


def feature(age_us: int = 0, /, **values: Any) -> Row:
    """A feature row in which the given fields were seen `age_us` before the window's end; others by column name."""
    row: Row = {**dict.fromkeys(SCHEMA), "key": "p-01", "end_us": END_US}
    for name, value in values.items():
        row |= {f"{name}.last": value, f"{name}.last_us": END_US - age_us} if name in CARRIED else {name: value}
    return row


def without_nulls(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def ruled(*rows: Row) -> list[Row]:
    return list(ward_rule(pl.DataFrame(rows, schema=SCHEMA), STALE_US).iter_rows(named=True))


def decide(labels: Sequence[str], baselines: Row | None = None, **values: Any) -> Judgement:
    seen = {name: value for name, value in {**NORMAL, **values}.items() if value is not None}
    return judge(ruled(feature(**seen) | (baselines or {}))[0], labels)


def fresh(row: Row, field: str, part: str) -> Any:
    seen_us = row[f"{field}.last_us"]
    return row[f"{field}.last"] if seen_us is not None and END_US - seen_us <= STALE_US[part] else None


def level_by_gcs(total: float) -> str:
    if total >= 15:
        return "A"
    if total >= 14:
        return "C"
    if total >= 9:
        return "V"
    return "P" if total >= 4 else "U"


def oxygen_of(row: Row) -> bool | None:
    explicit, flow, fraction = (fresh(row, field, "oxygen") for field in ("oxygen", "o2_flow", "fio2"))
    if explicit is not None:
        return bool(explicit)
    if flow is not None and fraction is not None:
        if row["o2_flow.last_us"] > row["fio2.last_us"]:
            fraction = None
        elif row["o2_flow.last_us"] < row["fio2.last_us"]:
            flow = None
    if flow is None and fraction is None:
        return None
    return (flow is not None and flow > 0) or (fraction is not None and fraction > 21)


def acvpu_of(row: Row) -> str | None:
    explicit, gcs, *three = (
        fresh(row, field, "acvpu") for field in ("acvpu", "gcs", "gcs_eye", "gcs_verbal", "gcs_motor")
    )
    if explicit is not None:
        return str(explicit)
    if gcs is not None:
        return level_by_gcs(gcs)
    return level_by_gcs(sum(three)) if None not in three else None


def observed_of(row: Row) -> Row:
    observed = {name: fresh(row, name, name) for name in ("rr", "spo2", "sbp", "hr", "temp")}
    for name in ("rr", "spo2", "hr"):
        if row[f"{name}.median"] is not None:
            observed[name] = row[f"{name}.median"]
    return {**observed, "spo2_scale": row["spo2_scale"], "oxygen": oxygen_of(row), "acvpu": acvpu_of(row)}


def ever_seen(row: Row, part: str) -> bool:
    sources = {"oxygen": ("oxygen", "o2_flow", "fio2"), "acvpu": ("acvpu", "gcs")}.get(part, (part,))
    three = part == "acvpu" and all(row[f"{field}.last_us"] is not None for field in CARRIED[-3:])
    return three or any(row[f"{field}.last_us"] is not None for field in sources)


VALUES: dict[str, Any] = {
    "hr": st.integers(35, 140).map(float),
    "rr": st.sampled_from([8.0, 8.5, 11.0, 20.5, 25.0]),
    "spo2": st.integers(82, 100).map(float),
    "sbp": st.integers(85, 225).map(float),
    "temp": st.sampled_from([34.9, 35.05, 36.05, 37.0, 38.04, 38.05, 39.1]),
    "acvpu": st.sampled_from("ACVPU"),
    "oxygen": st.booleans(),
    "o2_flow": st.sampled_from([0.0, 2.0]),
    "fio2": st.sampled_from([21.0, 40.0]),
    "gcs": st.integers(3, 15).map(float),
    "gcs_eye": st.integers(1, 4).map(float),
    "gcs_verbal": st.integers(1, 5).map(float),
    "gcs_motor": st.integers(1, 6).map(float),
}


@st.composite
def features(draw: st.DrawFn) -> Row:
    row = feature()
    for field, values in VALUES.items():
        age_us = draw(st.sampled_from([None, None, 0, 100, 101, 200, 201, 250, 251, 400, 401]))
        if age_us is not None:
            row |= {f"{field}.last": draw(values), f"{field}.last_us": END_US - age_us}
    for field in ("hr", "rr", "spo2"):
        row[f"{field}.median"] = draw(st.one_of(st.none(), VALUES[field]))
    return row | {"spo2_scale": draw(st.sampled_from([None, 1, 2]))}


@settings(max_examples=40, deadline=None)
@given(st.lists(features(), min_size=1, max_size=6))
def test_a_window_is_scored_by_its_median_or_what_is_still_fresh(rows: list[Row]) -> None:
    for row, out in zip(rows, ruled(*rows), strict=True):
        observed = observed_of(row)
        (expected,) = news2.score_rows([observed])
        assert {name: out[f"part.{name}"] for name in news2.PARTS} == expected["parts"]
        assert (out["score"], ACTIONS[out["trigger"]]) == (expected["score"], expected["trigger"])
        assert out["missing"] == expected["missing"]
        assert out["missing_why"] == [
            "unusable" if observed[name] is not None else "stale" if ever_seen(row, name) else "absent"
            for name in expected["missing"]
        ]
        assert out["known"] == sum(points or 0 for points in expected["parts"].values())
        assert (out["value.oxygen"], out["value.acvpu"]) == (observed["oxygen"], observed["acvpu"])
        passed_on = {name for name in SCHEMA if not name.endswith((".last", ".last_us", ".median"))}
        assert {name: row[name] for name in passed_on} == {name: out[name] for name in passed_on}
        assert not (SCHEMA.keys() - passed_on) & out.keys()


def test_a_value_is_shown_as_it_was_scored() -> None:
    (row,) = ruled(feature(temp=36.05, sbp=100.5, **{"hr.median": 90.5}))
    assert (row["value.temp"], row["value.sbp"], row["value.hr"]) == (36.1, 101.0, 91.0)
    assert (row["part.temp"], row["part.sbp"], row["part.hr"]) == (0, 1, 1)


def test_a_probe_that_fell_off_is_stale_and_not_normal() -> None:
    at_limit, past = ruled(feature(110, spo2=97.0), feature(111, spo2=97.0))
    assert (at_limit["value.spo2"], past["value.spo2"]) == (97.0, None)
    assert past["missing_why"][past["missing"].index("spo2")] == "stale"


@pytest.mark.parametrize(
    ("flow", "fraction", "oxygen"),
    [
        ((0.0, 10), (40.0, 10), True),
        ((2.0, 10), (21.0, 10), True),
        ((0.0, 10), (21.0, 10), False),
        ((0.0, 10), (40.0, 20), False),
        ((2.0, 20), (21.0, 10), False),
        ((2.0, 201), (21.0, 10), False),
        ((2.0, 201), (40.0, 201), None),
    ],
)
def test_oxygen_is_told_by_the_newer_of_flow_and_fraction(
    flow: tuple[float, int], fraction: tuple[float, int], oxygen: bool | None
) -> None:
    (row,) = ruled(feature(flow[1], o2_flow=flow[0]) | without_nulls(feature(fraction[1], fio2=fraction[0])))
    assert row["value.oxygen"] is oxygen


@pytest.mark.parametrize("total", range(3, 16))
def test_a_coma_score_below_fifteen_is_not_alert(total: int) -> None:
    (row,) = ruled(feature(gcs=float(total)))
    assert (row["value.acvpu"], row["part.acvpu"]) == (level_by_gcs(total), 0 if total == 15 else 3)


def test_components_of_a_coma_score_count_only_together() -> None:
    whole, part = ruled(feature(gcs_eye=4.0, gcs_verbal=4.0, gcs_motor=6.0), feature(gcs_eye=4.0, gcs_motor=6.0))
    assert (whole["value.acvpu"], part["value.acvpu"]) == ("C", None)
    assert part["missing_why"][part["missing"].index("acvpu")] == "absent"


def test_on_scale_2_a_high_saturation_cannot_be_scored_without_knowing_of_oxygen() -> None:
    (row,) = ruled(feature(**{**NORMAL, "oxygen": None, "spo2": 95.0, "spo2_scale": 2}) | {"oxygen.last_us": None})
    assert (row["missing"], row["missing_why"]) == (["spo2", "oxygen"], ["unusable", "absent"])


INFECTED = ("infection_suspected",)
CONFUSED = ("new_confusion",)
SLOWED = ("rate_limiting_drug",)
TREND: Row = {"sbp.baseline": 150.0, "hr.baseline": 60.0}


@pytest.mark.parametrize(
    ("labels", "values", "action", "raised_by"),
    [
        pytest.param(INFECTED, {"hr": 115.0, "rr": 22.0}, "nurse", [], id="infection at 4"),
        pytest.param(
            INFECTED, {"hr": 115.0, "rr": 22.0, "sbp": 105.0}, "emergency", list(INFECTED), id="infection at 5"
        ),
        pytest.param(
            INFECTED,
            {"hr": 115.0, "rr": 22.0, "sbp": 105.0, "temp": None},
            "emergency",
            list(INFECTED),
            id="infection at 5 or more, one part missing",
        ),
        pytest.param(CONFUSED, {}, "urgent", list(CONFUSED), id="confusion alone"),
        pytest.param(CONFUSED, {"rr": 22.0, "hr": 95.0}, "urgent", list(CONFUSED), id="confusion, 3 + 3"),
        pytest.param(CONFUSED, {"rr": 22.0, "hr": 115.0}, "emergency", list(CONFUSED), id="confusion, 4 + 3"),
        pytest.param(
            CONFUSED,
            {"rr": 22.0, "hr": 115.0, "acvpu": None},
            "emergency",
            list(CONFUSED),
            id="4 + 3, level not charted",
        ),
        pytest.param(
            CONFUSED, {"rr": 22.0, "hr": 95.0, "acvpu": "C"}, "urgent", [], id="confusion counted once when charted"
        ),
        pytest.param(("immunosuppressed",), {"temp": 37.9}, "none", [], id="no fever"),
        pytest.param(("immunosuppressed",), {"temp": 38.0}, "urgent", ["immunosuppressed"], id="fever"),
        pytest.param(("immunosuppressed",), {"temp": 37.95}, "urgent", ["immunosuppressed"], id="fever once rounded"),
        pytest.param(("immunosuppressed",), {"temp": None}, "none", [], id="fever not known"),
        pytest.param(("opioid",), {"rr": 11.0}, "nurse", [], id="opioid at 11"),
        pytest.param(("opioid",), {"rr": 10.0}, "urgent", ["opioid"], id="opioid at 10"),
        pytest.param(SLOWED, {"sbp": 101.0}, "nurse", [], id="drug at 101"),
        pytest.param(SLOWED, {"sbp": 100.0}, "review", list(SLOWED), id="drug at 100"),
        pytest.param(SLOWED, {"sbp": 90.0, "rr": 25.0, "hr": 95.0}, "emergency", [], id="nothing above emergency"),
        pytest.param(("recent_surgery",), {"sbp": 121.0, "hr": 71.0}, "none", [], id="trend below 20 %"),
        pytest.param(
            ("recent_surgery",), {"sbp": 120.0, "hr": 71.0}, "nurse", ["recent_surgery"], id="systolic down 20 %"
        ),
        pytest.param(("bleeding_risk",), {"sbp": 150.0, "hr": 72.0}, "nurse", ["bleeding_risk"], id="pulse up 20 %"),
        pytest.param(("bleeding_risk",), {"sbp": None, "hr": None}, "none", [], id="trend not known"),
        pytest.param(
            (*SLOWED, "recent_surgery", "bleeding_risk"),
            {"sbp": 100.0},
            "review",
            [*SLOWED, "recent_surgery", "bleeding_risk"],
            id="three raises of one level make one level",
        ),
        pytest.param(("pregnant",), {}, "nurse", ["pregnant"], id="pregnant, nothing scores"),
        pytest.param(("pregnant",), {"hr": 95.0, "rr": 22.0}, "nurse", [], id="pregnant, the rule's action stands"),
        pytest.param(("hypercapnic_target", "on_oxygen"), {"spo2": 90.0}, "review", [], id="a proposal lowers nothing"),
        pytest.param(
            ("comfort_care", "artefact"), {"rr": 25.0, "hr": 131.0, "sbp": 95.0}, "emergency", [], id="nor these"
        ),
    ],
)
def test_a_line_of_the_table_raises_exactly_when_it_says(
    labels: Sequence[str], values: Row, action: str, raised_by: list[str]
) -> None:
    judged = decide(labels, TREND, **values)
    assert (judged.action, judged.raised_by) == (action, raised_by)


def test_without_a_baseline_there_is_no_trend() -> None:
    assert decide(("recent_surgery",), sbp=112.0, hr=90.0).action == "none"


@pytest.mark.parametrize(
    ("labels", "values", "ids"),
    [
        (("hypercapnic_target",), {}, ["spo2_scale_2"]),
        (("hypercapnic_target",), {"spo2_scale": 2}, []),
        (("low_resting_rate",), {"hr": 45.0}, ["heart_rate_not_actionable"]),
        (("pacemaker",), {"hr": 45.0, "temp": None}, ["heart_rate_not_actionable"]),
        (("pacemaker",), {"hr": 45.0, "rr": 22.0}, []),
        (("pacemaker",), {}, []),
        (("comfort_care", "artefact"), {}, ["palliative_no_escalation", "check_sensor"]),
        ((), {"hr": 45.0}, []),
    ],
)
def test_a_line_of_the_table_proposes_exactly_when_it_says(labels: Sequence[str], values: Row, ids: list[str]) -> None:
    judged = decide(labels, **values)
    assert [proposal["id"] for proposal in judged.proposals] == ids
    assert all(proposal["text"] for proposal in judged.proposals)


@settings(max_examples=50, deadline=None)
@given(features(), st.lists(st.sampled_from(LABELS), unique=True))
def test_no_labels_ever_take_the_action_below_the_rule(row: Row, labels: list[str]) -> None:
    (out,) = ruled(row | {"hr.baseline": 70.0, "sbp.baseline": 120.0})
    judged = judge(out, labels)
    assert ACTIONS.index(judged.action) >= out["trigger"]
    assert set(judged.raised_by) <= set(labels)
    assert bool(judged.raised_by) == (judged.action != ACTIONS[out["trigger"]])
    assert judge(out, ()).action == judged.rule["action"] == ACTIONS[out["trigger"]]


def test_the_rule_part_has_the_names_that_the_contract_gives() -> None:
    assert decide((), spo2=93.0).rule == {
        "action": "nurse",
        "score": 2,
        "parts": {"rr": 0, "spo2": 2, "oxygen": 0, "sbp": 0, "hr": 0, "acvpu": 0, "temp": 0},
        "missing": [],
    }


def test_in_pregnancy_no_score_is_shown_anywhere() -> None:
    judged = decide(("pregnant", "infection_suspected"), rr=22.0, hr=115.0, sbp=105.0)
    assert (judged.rule["score"], judged.rule["not_shown"]) == (None, "pregnant")
    assert judged.rationale == (
        "NEWS2 does not apply and is not shown: the note says pregnant, or within six weeks after birth. "
        "Raised from urgent to emergency: infection suspected."
    )


@pytest.mark.parametrize(
    ("labels", "values", "rationale"),
    [
        ((), {}, "NEWS2 0: nothing scores."),
        (
            (),
            {"spo2": 93.0, "oxygen": True, "acvpu": "V", "temp": 38.5},
            "NEWS2 8: SpO2 93 % on scale 1 (2), on oxygen (2), consciousness V (3), temperature 38.5 °C (1).",
        ),
        (
            (),
            {"rr": None, "temp": None},
            "No NEWS2 score: respiration absent, temperature absent; nothing else scores.",
        ),
        (
            (),
            {"temp": None, "sbp": 95.0},
            "No NEWS2 score: temperature absent; at least 2 from systolic 95 mmHg (2).",
        ),
        (
            ("opioid",),
            {"rr": 10.0},
            "NEWS2 1: respiration 10/min (1). Raised from nurse to urgent: opioid with respiration 10/min.",
        ),
        (
            ("bleeding_risk",),
            {"hr": 72.0, "sbp": None},
            "No NEWS2 score: systolic pressure absent; nothing else scores. Raised from none to nurse: "
            "bleeding risk and pulse 72/min (6 h median 60).",
        ),
        (
            ("new_confusion",),
            {"rr": 22.0, "hr": 115.0},
            "NEWS2 4: respiration 22/min (2), pulse 115/min (2). Raised from nurse to emergency: "
            "new confusion that brings NEWS2 4 to 7 or more.",
        ),
    ],
)
def test_the_rationale_says_what_scored_what_is_missing_and_what_raised(
    labels: Sequence[str], values: Row, rationale: str
) -> None:
    assert decide(labels, {"hr.baseline": 60.0}, **values).rationale == rationale
