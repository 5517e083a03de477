"""The simulated ward is what its manifest says it is."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import pytest

from flows.simulators import physiology
from flows.simulators.ward import Manifest, Planted, describe, simulate_ward, vitals_frame, write_load
from schemas.errors import UsageError

FILES = ("vitals.jsonl", "notes.jsonl", "settings.jsonl", "planted.json")
UNREADABLE = ("not_json", "wrong_type", "out_of_range", "unknown_name", "missing_field")
DAY = timedelta(days=1)
BOUNDS = {"hr": (30, 180), "rr": (6, 40), "sbp": (70, 200), "dbp": (40, 120), "temp": (35.5, 40.0)}

Row = dict[str, Any]
Ward = tuple[Manifest, Path]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    out = tmp_path_factory.mktemp("ward") / "made" / "here"
    return simulate_ward(out, seed=3), out


def raw_lines(ward: Ward, name: str = "vitals.jsonl") -> list[bytes]:
    return (ward[1] / name).read_bytes().splitlines()


def rows_once(ward: Ward) -> list[Row]:
    """Every readable row the first time it arrives, dated by true time."""
    return rows_at(ward[1])


@cache
def rows_at(folder: Path) -> list[Row]:
    lines = orjson.loads((folder / "planted.json").read_bytes())["lines"]
    skipped = {number for fault in (*UNREADABLE, "duplicate") for number in lines[fault]}
    future = set(lines["future"])
    rows = []
    for number, line in enumerate((folder / "vitals.jsonl").read_bytes().splitlines(), 1):
        if number not in skipped:
            row = orjson.loads(line)
            row["at"] = datetime.fromisoformat(row["ts"]) - (DAY if number in future else timedelta())
            rows.append(row)
    return rows


def story(ward: Ward, kind: str) -> Planted:
    return next(one for one in ward[0].planted if one.kind == kind)


def minutes_of(ward: Ward, kind: str, measure: str) -> list[float]:
    """Median of each minute, or for a charted measure its last value so far."""
    by_minute: dict[int, list[float]] = defaultdict(list)
    for row in sorted(rows_once(ward), key=lambda row: row["at"]):
        if row["patient"] == story(ward, kind).patient and row.get(measure) is not None:
            by_minute[int((row["at"] - datetime.fromisoformat(ward[0].start)).total_seconds() // 60)].append(
                row[measure]
            )
    shown, last = [], by_minute[0]
    for minute in range(int(ward[0].minutes)):
        last = by_minute.get(minute) or last[-1:]
        shown.append(median(last))
    return shown


def test_the_same_seed_writes_the_same_bytes(ward: Ward, tmp_path: Path) -> None:
    simulate_ward(tmp_path, seed=3)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == {
        name: (ward[1] / name).read_bytes() for name in FILES
    }


def test_another_seed_writes_other_bytes(tmp_path: Path) -> None:
    for seed in (1, 2):
        simulate_ward(tmp_path / str(seed), seed=seed, minutes=5)
    for name in ("vitals.jsonl", "notes.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() != (tmp_path / "2" / name).read_bytes()


def test_another_start_moves_every_time_and_changes_nothing_else(tmp_path: Path) -> None:
    moved = timedelta(days=3, milliseconds=7)
    first = datetime(2026, 3, 2, 8, tzinfo=UTC)
    made = [
        (simulate_ward(tmp_path / name, minutes=5, beds=3, start=start), tmp_path / name)
        for name, start in (("here", first), ("there", first + moved))
    ]
    here, there = (rows_once(one) for one in made)
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert other.pop("at") - one.pop("at") == moved
        assert one.pop("ts") != other.pop("ts")
        assert one == other


def test_the_manifest_file_is_the_manifest(ward: Ward) -> None:
    assert json.loads((ward[1] / "planted.json").read_text()) == json.loads(json.dumps(asdict(ward[0])))


def test_stated_row_counts_are_those_of_the_files(ward: Ward) -> None:
    manifest = ward[0]
    assert manifest.rows == {name: len(raw_lines(ward, name)) for name in FILES[:3]}
    assert 27_000 < manifest.rows["vitals.jsonl"] < 29_500
    assert manifest.numbers == {fault: len(lines) for fault, lines in manifest.lines.items()}
    assert all(manifest.numbers.values())
    once = [number for lines in manifest.lines.values() for number in lines]
    assert len(once) == len(set(once))


def test_each_story_counts_its_own_readable_rows(ward: Ward) -> None:
    rows = rows_once(ward)
    for one in ward[0].planted:
        begins, ends = one.begins.replace("Z", "+00:00"), one.ends.replace("Z", "+00:00")
        span = [row for row in rows if row["patient"] == one.patient and row["bed"] == one.bed]
        low, high = datetime.fromisoformat(begins), datetime.fromisoformat(ends)
        assert sum(low <= row["at"] < high for row in span) == one.rows


def test_a_duplicate_repeats_an_earlier_line_and_nothing_else_does(ward: Ward) -> None:
    seen: Counter[bytes] = Counter()
    repeats = []
    for number, line in enumerate(raw_lines(ward), 1):
        if seen[line]:
            repeats.append(number)
        seen[line] += 1
    assert tuple(repeats) == ward[0].lines["duplicate"]


def test_rows_are_behind_the_newest_one_exactly_as_stated(ward: Ward) -> None:
    lines = {fault: set(numbers) for fault, numbers in ward[0].lines.items()}
    newest = datetime.fromisoformat(ward[0].start)
    for number, line in enumerate(raw_lines(ward), 1):
        if any(number in lines[fault] for fault in ("future", "duplicate", *UNREADABLE)):
            continue
        at = datetime.fromisoformat(orjson.loads(line)["ts"])
        behind_s = (newest - at).total_seconds()
        newest = max(newest, at)
        if number in lines["late"]:
            assert behind_s > 70 + 50  # a window and the allowed lateness, with a margin
        elif number in lines["out_of_order"]:
            assert 1 < behind_s < 10
        else:
            assert behind_s < 2


def test_future_rows_are_a_day_ahead_and_come_from_one_monitor(ward: Ward) -> None:
    lines = raw_lines(ward)
    future = [orjson.loads(lines[number - 1]) for number in ward[0].lines["future"]]
    assert {row["patient"] for row in future} == {story(ward, "clock_ahead").patient}
    assert len(future) == story(ward, "clock_ahead").rows == 240
    tomorrow = datetime.fromisoformat(ward[0].start) + DAY
    dated = {number for number, line in enumerate(lines, 1) if b'"ts":"' + str(tomorrow.date()).encode() in line}
    assert dated == set(ward[0].lines["future"])


def test_malformed_rows_are_broken_in_the_way_their_reason_names(ward: Ward) -> None:
    lines = raw_lines(ward)
    broken = {reason: [lines[number - 1] for number in ward[0].lines[reason]] for reason in UNREADABLE}
    for line in broken["not_json"]:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(line)
    assert all(isinstance(orjson.loads(line)["hr"], str) for line in broken["wrong_type"])
    assert Counter((row["hr"] == 0, row.get("temp") == 99.0) for row in map(orjson.loads, broken["out_of_range"])) == {
        (True, False): 2,
        (False, True): 2,
    }
    assert all(orjson.loads(line)["name"] == "bed_tilt" for line in broken["unknown_name"])
    assert all("patient" not in orjson.loads(line) for line in broken["missing_field"])


def test_readable_rows_stay_in_plausible_ranges_and_are_quantised(ward: Ward) -> None:
    gap = story(ward, "probe_off")
    for row in rows_once(ward):
        assert row["ts"].endswith("Z")
        assert row["at"].microsecond % 1000 == 0
        for measure in ("hr", "rr", "sbp", "dbp", "temp"):
            if measure in row:
                low, high = BOUNDS[measure]
                assert low <= row[measure] <= high
                assert isinstance(row[measure], float if measure == "temp" else int)
        if row["spo2"] is None:
            assert row["patient"] == gap.patient
        else:
            assert (30 if row["patient"] == gap.patient else 80) <= row["spo2"] <= 100
        assert ("sbp" in row) == ("dbp" in row)
        assert ("temp" in row) == ("acvpu" in row) == ("oxygen" in row)


def test_every_patient_has_a_full_set_in_the_first_second_and_numbered_rows(ward: Ward) -> None:
    start = datetime.fromisoformat(ward[0].start)
    by_patient: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows_once(ward), key=lambda row: row["at"]):
        by_patient[row["patient"]].append(row)
    assert len(by_patient) == 12
    for rows in by_patient.values():
        assert rows[0]["at"] - start < timedelta(seconds=1)
        assert {"hr", "rr", "spo2", "sbp", "dbp", "temp", "acvpu", "oxygen"} <= rows[0].keys()
        numbers = [row["seq"] for row in rows]
        assert numbers == sorted(set(numbers))
        cuffs = [row["at"] for row in rows if "sbp" in row]
        gaps_s = [(later - former).total_seconds() for former, later in pairwise(cuffs)]
        assert all(299 <= gap_s <= 901 for gap_s in gaps_s)


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_the_deterioration_crosses_from_no_score_to_emergency(seed: int, tmp_path: Path) -> None:
    made = (simulate_ward(tmp_path, seed=seed, beds=1), tmp_path)
    hr, rr, spo2 = (minutes_of(made, "deterioration", measure) for measure in ("hr", "rr", "spo2"))
    for minute in range(13):  # at most one point
        assert hr[minute] <= 90
        assert 12 <= rr[minute] <= 20
        assert spo2[minute] >= 95
    for minute in range(30, 40):  # 2 + 3 + 3 points
        assert 111 <= hr[minute] <= 130
        assert rr[minute] >= 25
        assert spo2[minute] <= 91


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_the_sepsis_scores_five_or_six_when_its_note_is_written(seed: int, tmp_path: Path) -> None:
    made = (simulate_ward(tmp_path, seed=seed, beds=2), tmp_path)
    hr, rr, spo2, sbp, temp = (minutes_of(made, "sepsis", name) for name in ("hr", "rr", "spo2", "sbp", "temp"))
    notes = [orjson.loads(line) for line in raw_lines(made, "notes.jsonl") if b"Suspected sepsis" in line]
    assert [note["ts"][11:16] for note in notes] == ["08:24"]
    for minute in range(24, 40):
        assert 111 <= hr[minute] <= 130  # 2 points
        assert 21 <= rr[minute] <= 24  # 2
        assert 38.6 <= temp[minute] <= 39.0  # 1
        assert spo2[minute] >= 96  # 0
        assert sbp[minute] >= 101  # 0 or 1


def test_the_other_patients_show_what_their_stories_say(ward: Ward) -> None:
    assert all(88 <= value <= 90 for value in minutes_of(ward, "copd", "spo2"))
    assert all(88 <= value <= 92 for value in minutes_of(ward, "copd_scale2", "spo2"))
    assert all(43.5 <= value <= 48.5 for value in minutes_of(ward, "athlete", "hr"))
    assert all(8.5 <= value <= 10 for value in minutes_of(ward, "opioid", "rr")[24:])
    settings = [orjson.loads(line) for line in raw_lines(ward, "settings.jsonl")]
    assert [(row["patient"], row["spo2_scale"]) for row in settings] == [(story(ward, "copd_scale2").patient, 2)]


def test_the_probe_slips_to_implausible_values_and_then_shows_none_for_minutes(ward: Ward) -> None:
    probe = story(ward, "probe_off")
    rows = [row for row in rows_once(ward) if row["patient"] == probe.patient]
    none = [row["at"] for row in rows if row["spo2"] is None]
    assert max(none) - min(none) > timedelta(minutes=6)  # longer than a saturation stays fresh
    assert len(none) == round((max(none) - min(none)).total_seconds()) + 1
    assert sum(row["spo2"] is not None and row["spo2"] < 60 for row in rows) > 20
    assert all(row["spo2"] >= 94 for row in rows if row["ts"] >= probe.ends)


def test_the_quiet_bed_stops_for_good(ward: Ward) -> None:
    quiet = story(ward, "quiet")
    last = max(row["ts"] for row in rows_once(ward) if row["patient"] == quiet.patient)
    assert "08:21:59" <= last[11:19] < quiet.begins[11:19]


def test_the_shock_index_rises_with_the_infection(ward: Ward) -> None:
    hr, sbp = minutes_of(ward, "sepsis", "hr"), minutes_of(ward, "sepsis", "sbp")
    assert hr[35] / sbp[35] > 1.3 * hr[0] / sbp[0]


@pytest.mark.parametrize(("fallen", "by", "raised"), [("spo2", 8.0, ("hr", "rr")), ("sbp", 25.0, ("hr",))])
def test_a_fall_alone_raises_what_is_coupled_to_it(
    fallen: str, by: float, raised: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = np.zeros_like(physiology.DIRECT)
    only[0, physiology.MEASURES.index(fallen)] = -by
    monkeypatch.setattr(physiology, "DIRECT", only)
    drivers = np.zeros((900, 2, len(physiology.DRIVERS)))
    drivers[:, 1, 0] = 1.0  # the same patient twice, the second one ill
    baseline = np.tile(physiology.resting(np.random.default_rng(1), 1), (2, 1))
    shown = physiology.readings(np.random.default_rng(2), baseline, drivers)
    for measure in ("hr", "rr"):
        well, ill = getattr(shown, measure).mean(axis=0)
        assert (ill - well > 3.0) == (measure in raised)


def test_neighbouring_seconds_resemble_each_other_as_noise_would_not(ward: Ward) -> None:
    calm = [row["hr"] for row in rows_once(ward) if row["patient"] == "p-12"]
    steps = [abs(b - a) for a, b in pairwise(calm)]
    spread = [abs(b - a) for a, b in zip(calm, calm[600:], strict=False)]
    assert sum(steps) / len(steps) < 0.75 * sum(spread) / len(spread)


@pytest.mark.parametrize(("beds", "kinds"), [(1, ["deterioration"]), (3, ["deterioration", "sepsis", "copd"])])
def test_a_small_short_ward_plants_the_first_stories_that_fit(beds: int, kinds: list[str], tmp_path: Path) -> None:
    manifest = simulate_ward(tmp_path, beds=beds, minutes=5)
    assert [one.kind for one in manifest.planted] == kinds
    assert [fault for fault, count in manifest.numbers.items() if not count] == ["future"]
    assert all(one.ends <= "2026-03-02T08:05:00.000Z" for one in manifest.planted)


def test_the_description_names_every_story_and_fault(ward: Ward) -> None:
    text = describe(ward[0])
    for one in ward[0].planted:
        assert f"{one.bed} ({one.patient}), {one.kind}" in text
    for fault, count in ward[0].numbers.items():
        assert f"{count} {fault.replace('_', ' ')}" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"beds": 0}, "beds"),
        ({"minutes": 4.9}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"minutes": float("inf")}, "rows"),
        ({"start": datetime(2026, 1, 1)}, "zone"),
    ],
)
def test_arguments_out_of_bounds_are_refused_by_name(arguments: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=named):
        simulate_ward(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        simulate_ward(tmp_path / "file", beds=1, minutes=5)


def test_the_load_has_every_bed_in_every_second_and_every_measure_in_every_row() -> None:
    start_us = 1_772_438_400_000_000
    frame = vitals_frame(5, 500, 60, start_us)
    assert frame.columns == ["ts", "patient", "bed", "hr", "rr", "spo2", "sbp", "temp", "seq"]
    assert frame.height == 30_000
    assert frame.null_count().sum_horizontal().item() == 0
    assert frame["ts"].is_sorted()
    assert (frame["ts"][0][:19], frame["ts"][-1][:19]) == ("2026-03-02T08:00:00", "2026-03-02T08:00:59")
    assert frame.select("patient", "seq").n_unique() == 30_000
    assert frame.equals(vitals_frame(5, 500, 60, start_us))
    assert not frame.equals(vitals_frame(6, 500, 60, start_us))


def test_the_load_file_holds_the_frame_line_by_line(tmp_path: Path) -> None:
    assert write_load(tmp_path / "load", seed=5, beds=20, seconds=3) == 60
    rows = [orjson.loads(line) for line in (tmp_path / "load" / "vitals.jsonl").read_bytes().splitlines()]
    assert rows == vitals_frame(5, 20, 3, 1_772_438_400_000_000).to_dicts()
