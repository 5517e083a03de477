"""The ward, end to end: real files, the real engine, the real store."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate, records, write_jsonl

pytestmark = pytest.mark.flow
START = 1_772_438_400_000  # 2026-03-02T08:00:00Z in ms
CALM = {"hr": 72, "rr": 16, "spo2": 98, "sbp": 124, "dbp": 76, "temp": 36.8, "acvpu": "A", "oxygen": False}


def vitals(seconds: int, patient: str = "p-01", start_ms: int = START, **changes: object) -> list[dict[str, object]]:
    return [
        {"ts": start_ms + 1000 * second, "patient": patient, "seq": second, **CALM, **changes}
        for second in range(seconds)
    ]


def summary_of(tidegate: Tidegate, source: Path, tmp_path: Path, *more: object) -> dict[str, object]:
    out = tmp_path / "summary.json"
    tidegate("run", "ward", "--source", source, "--sink", tmp_path / "t.db", "--summary", out, "--until-end", *more)
    summary: dict[str, object] = json.loads(out.read_text())
    return summary


def test_a_simulated_ward_gives_one_decision_for_each_patient_and_window(
    tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    summary = summary_of(tidegate, ward, tmp_path)
    planted = json.loads((ward / "planted.json").read_text())
    rows, rejected = summary["rows"], summary["rejected"]
    assert isinstance(rows, dict)
    assert isinstance(rejected, dict)
    assert (
        rows["in"]
        == sum(planted["rows"].values())
        == sum(rows[way] for way in ("used", "late", "rejected", "duplicate"))
    )
    numbers = planted["numbers"]
    assert (rows["late"], rows["duplicate"]) == (numbers["late"], numbers["duplicate"])
    assert rejected == {
        reason: count for reason, count in numbers.items() if reason not in ("late", "duplicate", "out_of_order")
    }
    decided = records(tidegate, tmp_path / "t.db")
    last = {record["id"]: record for record in decided}
    assert len(last) == summary["windows"] == sum(summary["decisions"].values())  # type: ignore[attr-defined]
    assert len({(record["key"], *record["window"]) for record in last.values()}) == len(last)
    kinds = {planted_one["kind"]: planted_one["patient"] for planted_one in planted["planted"]}
    worst = {}
    for record in last.values():
        worst.setdefault(record["key"], set()).add(record["action"])
    assert "emergency" in worst[kinds["deterioration"]]
    assert re.match(r"\d+ records of \d+ keys", tidegate("verify", "--db", tmp_path / "t.db").stdout)


def test_two_replays_give_the_same_bytes_however_rows_are_cut_and_shared_out(
    tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    config = tmp_path / "small.toml"
    config.write_text("batch_rows_max = 37\nepoch_s = 0.1\nworkers = 2\nshards = 4\n")
    lines = []
    for name, more in (("a", ()), ("b", ("--config", config))):
        db = tmp_path / f"{name}.db"
        tidegate("run", "ward", "--source", ward, "--sink", db, *more)
        lines.append(tidegate("decisions", "--db", db, "--json").stdout)
    assert lines[0] == lines[1]


def test_each_poisoned_row_costs_exactly_one_row(tidegate: Tidegate, tmp_path: Path) -> None:
    rows: list[object] = [
        row for second in zip(*(vitals(5_000, f"p-{bed}") for bed in range(20)), strict=True) for row in second
    ]
    rows[40_000] = {**rows[40_000], "ts": rows[40_000]["ts"] + 86_400_000, "seq": 900_001}  # type: ignore[index, dict-item]
    rows[60_000] = {**rows[60_000], "hr": 100_000}  # type: ignore[dict-item]
    rows[80_000] = '{"ts": 17724384'
    write_jsonl(tmp_path / "src" / "vitals.jsonl", rows)
    summary = summary_of(tidegate, tmp_path / "src", tmp_path, "--model", "none")
    assert summary["rows"] == {"in": 100_000, "used": 99_997, "late": 0, "rejected": 3, "duplicate": 0}
    assert summary["rejected"] == {"future": 1, "not_json": 1, "out_of_range": 1}
    with sqlite3.connect(tmp_path / "t.db") as db:
        letters = db.execute("SELECT offset, reason, raw FROM dead_letters ORDER BY offset").fetchall()
    assert [(offset, reason) for offset, reason, _ in letters] == [
        (40_000, "future"),
        (60_000, "out_of_range"),
        (80_000, "not_json"),
    ]
    assert letters[2][2] == b'{"ts": 17724384'


def test_a_note_raises_the_action_as_a_revision_of_the_same_decision(tidegate: Tidegate, tmp_path: Path) -> None:
    sick = {"hr": 112, "rr": 22, "temp": 38.6}
    write_jsonl(tmp_path / "src" / "vitals.jsonl", vitals(180, **sick))
    note = {"ts": START + 60_000, "patient": "p-01", "note": "Suspected sepsis, cultures sent, IV antibiotics started."}
    write_jsonl(tmp_path / "src" / "notes.jsonl", [note])
    summary = summary_of(tidegate, tmp_path / "src", tmp_path)
    first, second, second_read, third = records(tidegate, tmp_path / "t.db")
    assert first["model"]["abstain"] == "no_text"
    assert first["rule"]["score"] == 5
    assert first["action"] == "urgent"
    assert (second["id"], second["revision"], second["model"]["abstain"]) == (second_read["id"], 0, "pending")
    assert second_read["revision"] == 1
    assert "infection_suspected" in second_read["model"]["labels"]
    assert second_read["action"] == "emergency"
    assert second_read["raised_by"] == ["infection_suspected"]
    assert second_read["prev"] == second["hash"]
    assert (third["revision"], third["action"]) == (0, "emergency")
    spans = second_read["model"]["evidence"]["infection_suspected"]
    assert spans
    assert all(0 <= start < end <= len(note["note"]) for start, end in spans)  # type: ignore[arg-type]
    assert summary["model"]["calls"] == 1  # type: ignore[index]


def test_without_a_model_or_with_a_broken_one_the_rule_stands(tidegate: Tidegate, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "src" / "vitals.jsonl", vitals(60))
    write_jsonl(tmp_path / "src" / "notes.jsonl", [{"ts": START, "patient": "p-01", "note": "newly confused"}])
    (tmp_path / "empty").mkdir()
    for model, reason in (("none", "no_model"), (tmp_path / "empty", "model_refused")):
        db = tmp_path / f"{reason}.db"
        done = tidegate("run", "ward", "--source", tmp_path / "src", "--sink", db, "--model", model)
        (record,) = records(tidegate, db)
        assert (record["action"], record["model"]["abstain"]) == ("none", reason)
        assert ("refused" in done.stderr) == (reason == "model_refused")


def test_an_accepted_proposal_changes_the_patients_setting_from_then_on(tidegate: Tidegate, tmp_path: Path) -> None:
    db = tmp_path / "t.db"
    copd = {"spo2": 90, "oxygen": False}
    write_jsonl(tmp_path / "one" / "vitals.jsonl", vitals(120, **copd))
    note = {
        "ts": START,
        "patient": "p-01",
        "note": "COPD. Seen by resp reg on the round: target sats 88-92% written on the chart.",
    }
    write_jsonl(tmp_path / "one" / "notes.jsonl", [note])
    tidegate("run", "ward", "--source", tmp_path / "one", "--sink", db)
    before = records(tidegate, db)[-1]
    assert before["rule"]["parts"]["spo2"] == 3
    assert [proposal["id"] for proposal in before["proposals"]] == ["spo2_scale_2"]
    tidegate("accept", before["id"], "--by", "Dr Okafor", "--reason", "target confirmed", "--db", db)
    write_jsonl(tmp_path / "two" / "vitals.jsonl", vitals(60, start_ms=START + 120_000, **copd))
    tidegate("run", "ward", "--source", tmp_path / "two", "--sink", db)
    after = records(tidegate, db)[-1]
    assert after["rule"]["parts"]["spo2"] == 0
    assert after["prev"] == before["hash"], "the second run goes on in the same chain"
    assert "1 human actions are intact" in tidegate("verify", "--db", db).stdout


def test_wrong_usage_exits_with_2_and_one_sentence(tidegate: Tidegate, tmp_path: Path) -> None:
    done = tidegate("run", "ward", "--source", tmp_path / "nowhere", "--sink", tmp_path / "t.db", code=2)
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr
    config = tmp_path / "bad.toml"
    config.write_text("window_s = -1\n")
    done = tidegate("run", "ward", "--source", tmp_path, "--config", config, code=2)
    assert "window_s" in done.stderr
    assert "no flow called harbour" in tidegate("run", "harbour", "--source", tmp_path, code=2).stderr


def test_notes_count_from_their_own_time_in_whatever_order_their_file_has_them(
    tidegate: Tidegate, tmp_path: Path
) -> None:
    rows = [row for patient in ("p-01", "p-02") for row in vitals(60, patient)]
    write_jsonl(tmp_path / "src" / "vitals.jsonl", sorted(rows, key=lambda row: str(row["ts"])))
    notes = [(START + 86_400_000, "p-01", "far ahead"), (START + 30_000, "p-02", "mine"), (START, "p-01", "earlier")]
    write_jsonl(tmp_path / "src" / "notes.jsonl", [{"ts": ts, "patient": p, "note": note} for ts, p, note in notes])
    summary = summary_of(tidegate, tmp_path / "src", tmp_path, "--model", "none")
    assert summary["rows"]["used"] == 123  # type: ignore[index]
    offsets = {record["key"]: record["inputs"]["text"]["offset"] for record in records(tidegate, tmp_path / "t.db")}
    assert offsets == {"p-01": 2, "p-02": 1}
