"""NEWS2, the National Early Warning Score 2 (Royal College of Physicians, London, 2017), over columns.

Decimals are rounded half up in decimal notation before they are scored: temperature to 0.1 degrees Celsius, every other
measure to a whole number. 36.05 becomes 36.1 although its float is 36.0499999999999971..., and 90.5 becomes 91.
A missing part gives no score; the trigger is then what the known parts already justify, as every missing part can only
add: their sum is a lower bound, and a single 3 still calls for a review.
Not for patients under 16, nor in pregnancy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.ward import ACTIONS

PARTS = ("rr", "spo2", "oxygen", "sbp", "hr", "acvpu", "temp")
NUMERIC = ("rr", "spo2", "sbp", "hr", "temp")

Bands = tuple[tuple[float, int], ...]
"""(lowest value of the band, points), ascending; the first band is open below, the last above."""

BANDS: Mapping[str, Bands] = {
    "rr": ((0, 3), (9, 1), (12, 0), (21, 2), (25, 3)),
    "spo2": ((0, 3), (92, 2), (94, 1), (96, 0)),
    "sbp": ((0, 3), (91, 2), (101, 1), (111, 0), (220, 3)),
    "hr": ((0, 3), (41, 1), (51, 0), (91, 1), (111, 2), (131, 3)),
    "temp": ((0, 3), (35.1, 1), (36.1, 0), (38.1, 1), (39.1, 2)),
}
SPO2_SCALE_2_ON_AIR: Bands = ((0, 3), (84, 2), (86, 1), (88, 0))
SPO2_SCALE_2_ON_OXYGEN: Bands = (*SPO2_SCALE_2_ON_AIR, (93, 1), (95, 2), (97, 3))
SPO2_SCALE_2_OXYGEN_DECIDES = 93
"""From here up scale 2 depends on oxygen; below, both columns of the table agree."""
OXYGEN_POINTS = 2
ACVPU_POINTS: Mapping[str, int] = {"A": 0, "C": 3, "V": 3, "P": 3, "U": 3}
STEPS_PER_UNIT: Mapping[str, int] = {"rr": 1, "spo2": 1, "sbp": 1, "hr": 1, "temp": 10}
SPO2_MAX = 100

MISSING = -1
"""A part that could not be scored, in the kernel's int8 arrays."""

_NUMBERS = frozenset({int, float})
_POINTS = np.array([0, 1, 2, 3, None], object)
_BITS = (1 << np.arange(len(PARTS))).astype(np.uint8)
_NAMES_MISSING = [[name for bit, name in enumerate(PARTS) if mask >> bit & 1] for mask in range(1 << len(PARTS))]
_MISSING_LISTS = pl.Series("missing", _NAMES_MISSING, pl.List(pl.String))


@dataclass(frozen=True, slots=True)
class Observations:
    """What is scored, n rows each. Floats: NaN where missing; oxygen, acvpu: int8, MISSING where missing.

    scale: 1 or 2; anything else leaves SpO2 unscored, as a scale is never guessed. acvpu: points.
    """

    rr: NDArray[np.float64]
    spo2: NDArray[np.float64]
    scale: NDArray[np.float64]
    oxygen: NDArray[np.int8]
    sbp: NDArray[np.float64]
    hr: NDArray[np.float64]
    acvpu: NDArray[np.int8]
    temp: NDArray[np.float64]


def half_up(value: NDArray[np.float64], steps_per_unit: int) -> NDArray[np.float64]:
    """Round (n,) to 1/steps_per_unit, halves up, as the shortest decimal that names each float reads. NaN stays NaN.

    Exact, without decimals: the tie above step k is the float nearest to (2k + 1) / (2 * steps), and a float is at or
    above that one exactly when its decimal is at or above the tie.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.floor(value * steps_per_unit)
        step += value >= (2 * step + 1) / (2 * steps_per_unit)
        return step / steps_per_unit


def score(frame: pl.DataFrame) -> pl.DataFrame:
    """Score every row.

    In: rr (/min), spo2 (%), spo2_scale (1 or 2, null = 1), oxygen (Boolean), sbp (mm[Hg]), hr (/min), acvpu
    (A, C, V, P, U), temp (Cel); each may be null. Below zero, NaN, infinite, SpO2 over 100, any other letter: missing.
    Out, same rows: `part.<name>` Int8, null when missing; `score` Int64 0..20, null when any part is missing;
    `known` Int64, the sum of the parts that are there; `trigger` Int8, a rank in `schemas.ward.ACTIONS`; `missing`
    List[String] in the order of PARTS.
    """
    return score_observations(
        Observations(
            scale=frame["spo2_scale"].cast(pl.Float64).fill_null(1).to_numpy(),
            oxygen=np.nan_to_num(floats(frame["oxygen"]), nan=MISSING).astype(np.int8),
            acvpu=np.array([_acvpu(level) for level in frame["acvpu"].to_list()], np.int8),
            **{name: floats(frame[name]) for name in NUMERIC},
        )
    )


def score_observations(seen: Observations) -> pl.DataFrame:
    """`score` for columns that are already arrays."""
    parts = _parts(seen)
    known, trigger, missing = _totals(parts)
    points = np.where(parts == MISSING, math.nan, parts)
    total = np.where(missing == 0, known, math.nan)
    return pl.DataFrame(
        [
            *(_nullable(f"part.{name}", column, pl.Int8) for name, column in zip(PARTS, points, strict=True)),
            _nullable("score", total, pl.Int64),
            pl.Series("known", known),
            pl.Series("trigger", trigger),
            _MISSING_LISTS[missing].alias("missing"),
        ]
    )


def floats(column: pl.Series) -> NDArray[np.float64]:
    """A column of numbers or Booleans as (n,) floats, null as NaN."""
    return column.cast(pl.Float64).to_numpy()


def _nullable(name: str, values: NDArray[np.float64], dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series(name, values, nan_to_null=True).cast(dtype)


def score_rows(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Score rows as JSON gives them, in order: {"id", "score", "parts", "trigger", "missing"}. Never raises.

    A value of the wrong type, `true` for a number included, counts as missing. A scale that is neither absent, null,
    1 nor 2 leaves SpO2 unscored.
    """
    dicts = [row if isinstance(row, dict) else {} for row in rows]
    parts = _parts(
        Observations(
            scale=np.array([_scale(row.get("spo2_scale")) for row in dicts], np.float64),
            oxygen=np.array([_oxygen(row.get("oxygen")) for row in dicts], np.int8),
            acvpu=np.array([_acvpu(row.get("acvpu")) for row in dicts], np.int8),
            **{name: np.array([_number(row.get(name)) for row in dicts], np.float64) for name in NUMERIC},
        )
    )
    known, trigger, missing = _totals(parts)
    totals = known.astype(object)
    totals[missing != 0] = None
    return [
        {
            "id": row.get("id"),
            "score": total,
            "parts": dict(zip(PARTS, points, strict=True)),
            "trigger": ACTIONS[rank],
            "missing": list(_NAMES_MISSING[mask]),
        }
        for row, total, points, rank, mask in zip(
            dicts, totals.tolist(), _POINTS[parts.T].tolist(), trigger.tolist(), missing.tolist(), strict=True
        )
    ]


def _parts(seen: Observations) -> NDArray[np.int8]:
    """Points, (7, n) int8 in the order of PARTS, MISSING where there are none."""
    spo2 = half_up(seen.spo2, STEPS_PER_UNIT["spo2"])
    on_scale_2 = np.where(seen.oxygen == 1, _points(spo2, SPO2_SCALE_2_ON_OXYGEN), _points(spo2, SPO2_SCALE_2_ON_AIR))
    on_scale_2[(seen.oxygen == MISSING) & (spo2 >= SPO2_SCALE_2_OXYGEN_DECIDES)] = MISSING
    saturation = np.where(seen.scale == 2, on_scale_2, _points(spo2, BANDS["spo2"]))
    # The range is tested before rounding: 100.4 is not a saturation.
    saturation[~((seen.spo2 >= 0) & (seen.spo2 <= SPO2_MAX)) | ((seen.scale != 1) & (seen.scale != 2))] = MISSING
    points = {
        "spo2": saturation,
        "oxygen": np.where(seen.oxygen == 1, OXYGEN_POINTS, seen.oxygen),
        "acvpu": seen.acvpu,
    }
    for name in NUMERIC:
        if name not in points:
            value = getattr(seen, name)
            points[name] = _points(half_up(value, STEPS_PER_UNIT[name]), BANDS[name])
            points[name][~((value >= 0) & (value < math.inf))] = MISSING
    return np.array([points[name] for name in PARTS], np.int8)


def _points(rounded: NDArray[np.float64], bands: Bands) -> NDArray[np.int8]:
    """Points of rounded values, (n,) -> (n,) int8. Where a value is missing the result means nothing."""
    lowest, points = zip(*bands, strict=True)
    return np.array(points, np.int8)[np.searchsorted(lowest[1:], rounded, side="right")]


def _totals(parts: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.uint8]]:
    """Sum of the known parts, rank of the trigger, and a bit for every missing part; (n,) each."""
    gone = parts == MISSING
    known = np.where(gone, 0, parts).sum(axis=0, dtype=np.int64)
    rank = {action: np.int8(rank) for rank, action in enumerate(ACTIONS)}
    trigger = np.select(
        [known >= 7, known >= 5, (parts == 3).any(axis=0), known >= 1],
        [rank["emergency"], rank["urgent"], rank["review"], rank["nurse"]],
        rank["none"],
    )
    return known, trigger, _BITS @ gone.astype(np.uint8)


def _number(value: object) -> float:
    if type(value) not in _NUMBERS:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.nan


def _scale(value: object) -> int:
    if value is None or (type(value) in _NUMBERS and value == 1):
        return 1
    return 2 if value == 2 else 0


def _oxygen(value: object) -> int:
    return int(value) if isinstance(value, bool) else MISSING


def _acvpu(value: object) -> int:
    return ACVPU_POINTS.get(value, MISSING) if isinstance(value, str) else MISSING
