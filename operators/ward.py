"""The ward: which value of a window NEWS2 scores, the gate's table, and the sentences that explain a decision."""

import math
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from operators.columnar import news2
from operators.domain import Judgement
from operators.gate import ONE_LEVEL, Facts, Flag, Gate, Outcome, Propose, Raise, render
from schemas.ward import ACTIONS

CARRIED = (
    *("hr", "rr", "spo2", "sbp", "temp", "acvpu", "oxygen", "o2_flow", "fio2"),
    *("gcs", "gcs_eye", "gcs_verbal", "gcs_motor"),
)
"""Fields of which `<f>.last` and `<f>.last_us` have to be known over later windows."""
MEDIANS = ("hr", "rr", "spo2")
"""Fields scored by the median of the window where it has any."""

ROOM_AIR_FIO2 = 21
GCS_COMPONENTS = ("gcs_eye", "gcs_verbal", "gcs_motor")
ACVPU_OF_GCS = ((3, "U"), (4, "P"), (9, "V"), (14, "C"), (15, "A"))
"""(lowest Glasgow coma score, level). Cut points of ours; all but A score the same 3, so none of them moves a score."""

_LETTERS = (*news2.ACVPU_POINTS, None)
_LETTER_COLUMN = pl.Series("value.acvpu", _LETTERS, pl.String)
_CODE_OF_LETTER = {letter: float(code) for code, letter in enumerate(news2.ACVPU_POINTS)}
_ACVPU_POINTS = np.array([*news2.ACVPU_POINTS.values(), news2.MISSING], np.int8)
_CODE_OF_GCS = np.array([math.nan, *(_CODE_OF_LETTER[letter] for _, letter in ACVPU_OF_GCS)])

_WHYS = (None, "absent", "stale", "unusable")
_WHY_PLACES = len(_WHYS) ** np.arange(len(news2.PARTS))

USED_UP = (".last", ".last_us", ".median")

Floats = NDArray[np.float64]


def ward_rule(frame: pl.DataFrame, stale_us: Mapping[str, int]) -> pl.DataFrame:
    """Score every window of a feature frame.

    In: end_us; `<f>.last`, `<f>.last_us` of CARRIED; `<f>.median` of MEDIANS, null without a reading in the window;
    `spo2_scale` (null = 1). stale_us: for each of news2.PARTS, the age at the window's end above which a carried value
    is missing; the limits of `oxygen` and `acvpu` hold for what they are derived from too.
    Added: the columns of `news2.score`; `value.<part>`, rounded as it was scored, null where there is none, and
    `value.spo2_scale`; `missing_why` List[String] beside `missing`: `absent` (never seen), `stale`, or `unusable`
    (seen, but cannot be scored: SpO2 on scale 2 while it is not known whether oxygen is given). The carried columns and
    medians go no further: every decision is made row by row, and pays for each column.
    """
    carried = _Carried(frame, stale_us)
    numbers = {name: _number(carried, name) for name in news2.NUMERIC}
    scale = np.nan_to_num(news2.floats(frame["spo2_scale"]), nan=1)
    oxygen = _oxygen(carried)
    level = np.nan_to_num(_acvpu(carried), nan=len(_LETTERS) - 1).astype(np.uint32)
    scored = news2.score_observations(
        news2.Observations(
            scale=scale,
            oxygen=np.nan_to_num(oxygen, nan=news2.MISSING).astype(np.int8),
            acvpu=_ACVPU_POINTS[level],
            **numbers,
        )
    )
    values = [
        *(pl.Series(f"value.{name}", number, nan_to_null=True) for name, number in numbers.items()),
        pl.Series("value.oxygen", oxygen, nan_to_null=True).cast(pl.Boolean),
        _LETTER_COLUMN[level],
        pl.Series("value.spo2_scale", scale.astype(np.int64)),
    ]
    unknown = {name: np.isnan(number) for name, number in numbers.items()}
    unknown |= {"oxygen": np.isnan(oxygen), "acvpu": level == len(_LETTERS) - 1}
    rest = frame[[name for name in frame.columns if not name.endswith(USED_UP)]]
    return rest.hstack([*values, *scored.get_columns(), _why(carried, scored, unknown)])


class _Carried:
    """Carried columns as arrays (n,): the value where it is fresh, else NaN, and when it was seen, NaN for never."""

    def __init__(self, frame: pl.DataFrame, stale_us: Mapping[str, int]) -> None:
        self.frame = frame
        self.stale_us = stale_us
        self.end_us = frame["end_us"].to_numpy()
        self.seen_us = {field: news2.floats(frame[f"{field}.last_us"]) for field in CARRIED}

    def fresh(self, field: str, part: str) -> Floats:
        """The last value of a field, as old as the part that it serves may be. Levels of consciousness as codes."""
        last = self.frame[f"{field}.last"]
        if field == "acvpu":
            codes = np.array([_CODE_OF_LETTER.get(level, math.nan) for level in last.to_list()], np.float64)
        else:
            codes = news2.floats(last)
        return np.where(self.end_us - self.seen_us[field] <= self.stale_us[part], codes, math.nan)


def _else(first: Floats, then: Floats) -> Floats:
    return np.where(np.isnan(first), then, first)


def _number(carried: _Carried, name: str) -> Floats:
    value = carried.fresh(name, name)
    if name in MEDIANS:
        value = _else(news2.floats(carried.frame[f"{name}.median"]), value)
    return news2.half_up(value, news2.STEPS_PER_UNIT[name])


def _oxygen(carried: _Carried) -> Floats:
    """1 or 0. The explicit flag; else the newer of flow and fraction, either of them where both are of one time."""
    flow, fraction = (carried.fresh(field, "oxygen") for field in ("o2_flow", "fio2"))
    flow_us, fraction_us = (
        np.where(np.isnan(value), -math.inf, carried.seen_us[field])
        for field, value in (("o2_flow", flow), ("fio2", fraction))
    )
    by_flow = (flow > 0) & (flow_us >= fraction_us)
    by_fraction = (fraction > ROOM_AIR_FIO2) & (fraction_us >= flow_us)
    derived = np.where(np.isnan(flow) & np.isnan(fraction), math.nan, by_flow | by_fraction)
    return _else(carried.fresh("oxygen", "oxygen"), derived)


def _acvpu(carried: _Carried) -> Floats:
    """Code of the level. The explicit letter; else by the Glasgow coma score, its total before its three components."""
    eye, verbal, motor = (carried.fresh(field, "acvpu") for field in GCS_COMPONENTS)
    gcs = _else(carried.fresh("gcs", "acvpu"), eye + verbal + motor)
    bands = np.searchsorted([lowest for lowest, _ in ACVPU_OF_GCS], gcs, side="right")
    return _else(carried.fresh("acvpu", "acvpu"), np.where(np.isnan(gcs), math.nan, _CODE_OF_GCS[bands]))


def _why(carried: _Carried, scored: pl.DataFrame, unknown: Mapping[str, NDArray[np.bool_]]) -> pl.Series:
    seen_us = carried.seen_us
    ever = {name: ~np.isnan(seen_us[name]) for name in news2.PARTS}
    ever["oxygen"] |= ~(np.isnan(seen_us["o2_flow"]) & np.isnan(seen_us["fio2"]))
    components_us = sum(seen_us[field] for field in GCS_COMPONENTS)
    ever["acvpu"] |= ~(np.isnan(seen_us["gcs"]) & np.isnan(components_us))
    whys = []
    for name in news2.PARTS:
        unscored = np.isnan(news2.floats(scored[f"part.{name}"]))
        whys.append(np.where(unscored, np.where(unknown[name], np.where(ever[name], 2, 1), 3), 0))
    # Few combinations occur in one frame: a list is made for each, not for each row.
    codes, which = np.unique(_WHY_PLACES @ np.array(whys), return_inverse=True)
    lists = [
        [_WHYS[code // place % len(_WHYS)] for place in _WHY_PLACES.tolist() if code // place % len(_WHYS)]
        for code in codes.tolist()
    ]
    return pl.Series("missing_why", lists, pl.List(pl.String))[which.astype(np.uint32)]


def _at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit


def _known_with_confusion(facts: Facts) -> int:
    """The sum of the known parts, with the 3 points for confusion where the chart does not give them."""
    return int(facts["known"]) + (0 if facts["part.acvpu"] else news2.ACVPU_POINTS["C"])


def _bleeding_trend(labels: Set[str], facts: Facts) -> bool:
    """Systolic down by 20 % or pulse up by 20 % on the patient's own median; whole numbers, so that 20 % is 20 %."""
    sbp, sbp_before = facts["value.sbp"], facts["sbp.baseline"]
    if sbp is not None and sbp_before is not None and 5 * sbp <= 4 * sbp_before:
        return True
    hr, hr_before = facts["value.hr"], facts["hr.baseline"]
    return hr is not None and hr_before is not None and bool(5 * hr >= 6 * hr_before)


def _only_the_pulse_scores(facts: Facts) -> bool:
    return bool(facts["part.hr"]) and not any(facts[f"part.{name}"] for name in news2.PARTS if name != "hr")


_TREND = (
    "with systolic {value.sbp} mmHg|(6 h median {sbp.baseline})|and pulse {value.hr}/min|(6 h median {hr.baseline})"
)
HIDES_SCORE = "pregnant"

WARD_GATE = Gate(
    ACTIONS,
    # `known` is the score, or a lower bound of it where parts are missing: what is missing could only add to it.
    raises=(
        Raise(
            "infection_suspected",
            "emergency",
            "infection suspected|with NEWS2 {known}",
            lambda _, facts: facts["known"] >= 5,
        ),
        Raise(
            "new_confusion",
            "emergency",
            "new confusion|that brings NEWS2 {known} to 7 or more",
            lambda _, facts: _known_with_confusion(facts) >= 7,
        ),
        Raise(
            "immunosuppressed",
            "urgent",
            "immunosuppressed with temperature {value.temp} °C",
            lambda _, facts: _at_least(facts["value.temp"], 38.0),
        ),
        Raise(
            "opioid",
            "urgent",
            "opioid with respiration {value.rr}/min",
            lambda _, facts: _at_most(facts["value.rr"], 10),
        ),
        Raise("new_confusion", "urgent", "new confusion"),
        Raise(
            "rate_limiting_drug",
            ONE_LEVEL,
            "rate-limiting drug with systolic {value.sbp} mmHg",
            lambda _, facts: _at_most(facts["value.sbp"], 100),
        ),
        Raise("recent_surgery", ONE_LEVEL, f"recent surgery|{_TREND}", _bleeding_trend),
        Raise("bleeding_risk", ONE_LEVEL, f"bleeding risk|{_TREND}", _bleeding_trend),
        Raise("pregnant", "nurse", "another chart is needed"),
    ),
    proposals=(
        Propose(
            "spo2_scale_2",
            ("hypercapnic_target",),
            "score SpO2 on scale 2",
            lambda _, facts: facts["value.spo2_scale"] == 1,
        ),
        Propose(
            "heart_rate_not_actionable",
            ("low_resting_rate", "pacemaker"),
            "heart rate alone is not actionable",
            lambda _, facts: _only_the_pulse_scores(facts),
        ),
        Propose("palliative_no_escalation", ("comfort_care",), "call the palliative team, no escalation"),
        Propose("check_sensor", ("artefact",), "check the sensor first"),
    ),
    flags=(Flag(HIDES_SCORE, "pregnant"),),
)

_WORDS = {
    "rr": "respiration",
    "spo2": "SpO2",
    "oxygen": "air or oxygen",
    "sbp": "systolic pressure",
    "hr": "pulse",
    "acvpu": "consciousness",
    "temp": "temperature",
}
_SCORED = {
    "rr": "respiration {value.rr}/min ({part.rr})",
    "spo2": "SpO2 {value.spo2} % on scale {value.spo2_scale} ({part.spo2})",
    "oxygen": "on oxygen ({part.oxygen})",
    "sbp": "systolic {value.sbp} mmHg ({part.sbp})",
    "hr": "pulse {value.hr}/min ({part.hr})",
    "acvpu": "consciousness {value.acvpu} ({part.acvpu})",
    "temp": "temperature {value.temp} °C ({part.temp})",
}
_points = itemgetter(*(f"part.{name}" for name in news2.PARTS))
_HIDDEN = "NEWS2 does not apply and is not shown: the note says pregnant, or within six weeks after birth."


def ward_rationale(row: Mapping[str, Any], rule_action: str, outcome: Outcome) -> str:
    """One or two sentences: the score with the parts that scored, or what is missing; then what raised the action."""
    hidden = HIDES_SCORE in outcome.flags
    sentences = [_HIDDEN if hidden else _score_sentence(row)]
    if outcome.because:
        slots = {**row, "known": None} if hidden else row
        because = "; ".join([render(reason, slots) for reason in outcome.because])
        sentences.append(f"Raised from {rule_action} to {outcome.action}: {because}.")
    return " ".join(sentences)


def _score_sentence(row: Mapping[str, Any]) -> str:
    points = _points(row)
    scored = any(points) and ", ".join(
        [render(_SCORED[name], row) for name, scores in zip(news2.PARTS, points, strict=True) if scores]
    )
    if row["score"] is not None:
        return f"NEWS2 {row['score']}: {scored or 'nothing scores'}."
    gone = _missing_words(tuple(row["missing"]), tuple(row["missing_why"]))
    if not scored:
        return f"No NEWS2 score: {gone}; nothing else scores."
    return f"No NEWS2 score: {gone}; at least {row['known']} from {scored}."


@lru_cache(maxsize=1024)
def _missing_words(names: tuple[str, ...], whys: tuple[str, ...]) -> str:
    return ", ".join([f"{_WORDS[name]} {why}" for name, why in zip(names, whys, strict=True)])


def judge(row: Mapping[str, Any], labels: Sequence[str]) -> Judgement:
    """Decide one row of `ward_rule`'s frame. labels: those acted on, none where the reader abstains.

    Where NEWS2 does not apply (pregnant) the score is null and `not_shown` in the rule's part says why; what the rule
    had decided stands.
    """
    rule_action = ACTIONS[row["trigger"]]
    rule = {
        "action": rule_action,
        "score": row["score"],
        "parts": dict(zip(news2.PARTS, _points(row), strict=True)),
        "missing": row["missing"],
    }
    if not labels:  # as the gate would say; most decisions are of this kind
        return Judgement(rule, rule_action, [], [], _score_sentence(row))
    outcome = WARD_GATE.decide(rule_action, labels, row)
    if HIDES_SCORE in outcome.flags:
        rule["score"], rule["not_shown"] = None, HIDES_SCORE
    rationale = ward_rationale(row, rule_action, outcome)
    return Judgement(rule, outcome.action, outcome.raised_by, outcome.proposals, rationale)
