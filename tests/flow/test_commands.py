"""The other commands, as a person types them."""

import hashlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate, records, write_jsonl

pytestmark = pytest.mark.flow
ROOT = Path(__file__).resolve().parents[2]
START = 1_772_438_400_000


def test_the_flow_in_the_readme_is_under_60_lines_and_runs(tidegate: Tidegate, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 60
    flow = tmp_path / "cold_store.py"
    flow.write_text(code)
    rows = [{"ts": START + 1000 * at, "room": "north", "temp": 4 + at / 100} for at in range(900)]
    rows.append({"ts": START, "room": "north", "temp": 400})
    write_jsonl(tmp_path / "src" / "readings.jsonl", rows)
    config = tmp_path / "epochs.toml"
    config.write_text("epoch_s = 0\nbatch_rows_max = 50\n")
    options = ["--model", "none", "--config", config, "--recovery", tmp_path / "state"]
    for _ in range(2):  # the second time there is nothing left to do
        tidegate("run", flow, "--source", tmp_path / "src", "--sink", tmp_path / "t.db", *options)
    decided = records(tidegate, tmp_path / "t.db")
    assert [record["action"] for record in decided] == ["watch", "call", "call"]
    assert decided[0]["rationale"].startswith("Mean 5.495 Cel.")
    tidegate("verify", "--db", tmp_path / "t.db")


def test_reading_keeps_the_order_and_answers_every_line(tidegate: Tidegate) -> None:
    texts = ["on bisoprolol 5 mg od, obs stable", "", "Ward round: no change."]
    lines = [json.dumps({"id": f"n{at}", "text": text}) for at, text in enumerate(texts)] + ["not json"]
    out = [json.loads(line) for line in tidegate("read", "ward", "--json", input="\n".join(lines)).stdout.splitlines()]
    assert [reading["id"] for reading in out] == ["n0", "n1", "n2", None]
    assert set(out[0]) == {"id", "labels", "p", "evidence", "abstain", "unsure"}
    assert out[0]["labels"] == ["rate_limiting_drug"]
    assert len(out[0]["p"]) == 14
    (start, end), *_ = out[0]["evidence"]["rate_limiting_drug"]
    assert "bisoprolol" in texts[0][start:end]
    assert (out[1]["abstain"], out[3]["abstain"]) == ("no_text", "no_text")


@pytest.mark.parametrize(
    ("domain", "text", "answers"),
    [
        ("roadside", "A38: two cars collided, both lanes shut.", {"kind", "blocked", "status"}),
        ("desk", "Halvorsen Marine raises its full-year forecast", {"topic", "direction", "certainty"}),
    ],
)
def test_reading_a_choice_gives_one_answer_by_its_name(
    tidegate: Tidegate, domain: str, text: str, answers: set[str]
) -> None:
    lines = [json.dumps({"id": "a", "text": text}), json.dumps({"id": "b", "text": ""})]
    out = [json.loads(line) for line in tidegate("read", domain, "--json", input="\n".join(lines)).stdout.splitlines()]
    assert set(out[0]) == {"id", *answers, "p", "evidence", "abstain", "unsure"}
    assert all(out[0]["p"][out[0][name]] > 0.2 for name in answers)
    assert [out[1][name] for name in answers] == [None] * 3


def test_scoring_prints_parts_total_and_trigger_in_order(tidegate: Tidegate) -> None:
    full = {"rr": 21, "spo2": 93, "oxygen": False, "sbp": 120, "hr": 95, "acvpu": "A", "temp": 37.5}
    lines = [json.dumps({"id": "welsh", **full}), "{", json.dumps({"id": "no-temp", **full, "temp": None})]
    done = tidegate("score", "news2", input="\n".join(lines))
    welsh, broken, partial = (json.loads(line) for line in done.stdout.splitlines())
    assert welsh == {
        "id": "welsh",
        "score": 5,
        "parts": {"rr": 2, "spo2": 2, "oxygen": 0, "sbp": 0, "hr": 1, "acvpu": 0, "temp": 0},
        "trigger": "urgent",
        "missing": [],
    }
    assert (broken["id"], broken["score"], len(broken["missing"])) == (None, None, 7)
    assert (partial["score"], partial["missing"]) == (None, ["temp"])


def test_refused_rows_are_sent_again_after_a_fix_and_no_decision_changes(tidegate: Tidegate, tmp_path: Path) -> None:
    db, source = tmp_path / "t.db", tmp_path / "src"
    rows: list[object] = [{"ts": START + 1000 * at, "patient": "p-01", "hr": 70, "seq": at} for at in range(120)]
    rows += [{"ts": START // 1000 + 240 + at, "patient": "p-01", "hr": 71} for at in range(5)]  # seconds, not ms
    write_jsonl(source / "vitals.jsonl", rows)
    tidegate("run", "ward", "--source", source, "--sink", db, "--model", "none")
    before = records(tidegate, db)
    assert len(before) == 2
    config = tmp_path / "seconds.toml"
    config.write_text('ts_unit = "s"\n')
    done = tidegate(
        "replay-dead-letters", "ward", "--db", db, "--reason", "bad_time", "--config", config, "--model", "none"
    )
    assert done.stdout.startswith("5 rows sent again, 1 decisions made from them; 0 rows stay refused")
    after = records(tidegate, db)
    assert after[:2] == before
    assert len(after) == 3
    assert after[2]["prev"] == before[1]["hash"]
    tidegate("verify", "--db", db)
    again = tidegate("replay-dead-letters", "ward", "--db", db, "--config", config, "--model", "none")
    assert again.stdout.startswith("0 rows sent again")


def test_a_changed_byte_is_found_and_named(tidegate: Tidegate, tmp_path: Path) -> None:
    db = tmp_path / "t.db"
    write_jsonl(
        tmp_path / "src" / "vitals.jsonl", [{"ts": START + 1000 * at, "patient": "p-01", "hr": 70} for at in range(180)]
    )
    tidegate("run", "ward", "--source", tmp_path / "src", "--sink", db, "--model", "none")
    victim = records(tidegate, db)[1]
    with sqlite3.connect(db) as edit:
        edit.execute(
            "UPDATE decisions SET record = replace(record, '\"none\"', '\"nurs\"') WHERE id = ?", (victim["id"],)
        )
    assert victim["id"] in tidegate("verify", "--db", db, code=1).stderr


def test_an_override_is_logged_and_changes_no_record(tidegate: Tidegate, tmp_path: Path) -> None:
    db = tmp_path / "t.db"
    write_jsonl(tmp_path / "src" / "vitals.jsonl", [{"ts": START, "patient": "p-01", "hr": 70}])
    tidegate("run", "ward", "--source", tmp_path / "src", "--sink", db, "--model", "none")
    (record,) = records(tidegate, db)
    tidegate("override", record["id"], "--by", "Sr Lind", "--reason", "seen at the bedside", "--db", db)
    assert records(tidegate, db) == [record]
    assert "1 human actions" in tidegate("verify", "--db", db).stdout
    assert "unknown" in tidegate("override", "unknown", "--by", "x", "--reason", "y", "--db", db, code=2).stderr


def test_following_a_folder_decides_while_rows_arrive(tmp_path: Path, tidegate: Tidegate) -> None:
    config = tmp_path / "fast.toml"
    config.write_text("window_s = 1\nallowed_lateness_s = 0.2\nidle_timeout_s = 1\nepoch_s = 0.2\n")
    source, db = tmp_path / "src", tmp_path / "t.db"
    vitals = write_jsonl(source / "vitals.jsonl", [])
    command = [
        "run",
        "ward",
        "--source",
        source,
        "--sink",
        db,
        "--follow",
        "--config",
        config,
        "--recovery",
        tmp_path / "state",
    ]
    process = subprocess.Popen([sys.executable, "-m", "flows", *map(str, command)])
    try:
        deadline, seen = time.monotonic() + 40, 0
        while time.monotonic() < deadline and seen < 3:
            with vitals.open("a") as file:
                file.write(json.dumps({"ts": time.time_ns() // 1_000_000, "patient": "p-01", "hr": 70}) + "\n")
            time.sleep(0.1)
            if db.exists():
                with sqlite3.connect(db) as reader:
                    seen = reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'decisions'").fetchone()[0]
                    seen = seen and reader.execute("SELECT count(*) FROM decisions").fetchone()[0]
        assert seen >= 3, "no decision while rows kept coming"
        last_ms = time.time_ns() // 1_000_000
        deadline = time.monotonic() + 20
        newest = 0
        while time.monotonic() < deadline and newest < last_ms - 1000:
            time.sleep(0.1)
            with sqlite3.connect(db) as reader:
                newest = reader.execute("SELECT max(end_us) FROM decisions").fetchone()[0] // 1000
        assert newest >= last_ms - 1000, "the last window closes although nothing follows it"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    tidegate("verify", "--db", db)


def test_a_note_holds_no_decision_back_while_a_folder_is_followed(tmp_path: Path) -> None:
    config = tmp_path / "fast.toml"
    config.write_text("window_s = 1\nallowed_lateness_s = 0.2\nidle_timeout_s = 60\n")
    source, db = tmp_path / "src", tmp_path / "t.db"
    vitals, notes = (write_jsonl(source / f"{name}.jsonl", []) for name in ("vitals", "notes"))
    command = ["run", "ward", "--source", source, "--sink", db, "--follow", "--config", config, "--model", "none"]
    process = subprocess.Popen([sys.executable, "-m", "flows", *map(str, command)])
    try:
        deadline, seen, noted = time.monotonic() + 30, 0, 0
        while time.monotonic() < deadline and (not noted or seen < noted + 3):
            now_ms = time.time_ns() // 1_000_000
            with vitals.open("a") as file:
                file.write(json.dumps({"ts": now_ms, "patient": "p-01", "hr": 70}) + "\n")
            if seen >= 2 and not noted:  # a busy machine may show several at once
                noted = seen
                with notes.open("a") as file:
                    file.write(json.dumps({"ts": now_ms, "patient": "p-02", "note": "seen"}) + "\n")
            time.sleep(0.1)
            if db.exists():
                with sqlite3.connect(db) as reader:
                    tables = reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'decisions'").fetchone()[0]
                    seen = reader.execute("SELECT count(*) FROM decisions").fetchone()[0] if tables else 0
        assert noted
        assert seen >= noted + 3
    finally:
        process.kill()
        process.wait(timeout=20)


def test_rows_that_came_after_the_end_are_not_passed_over_in_silence(tidegate: Tidegate, tmp_path: Path) -> None:
    source, db = tmp_path / "src", tmp_path / "t.db"
    rows = [{"ts": START + 1000 * at, "patient": "p-01", "hr": 70} for at in range(120)]
    write_jsonl(source / "vitals.jsonl", rows[:60])
    args = ["run", "ward", "--source", source, "--sink", db, "--model", "none", "--recovery"]
    tidegate(*args, tmp_path / "one")
    write_jsonl(source / "vitals.jsonl", rows)
    assert "vitals has more rows" in tidegate(*args, tmp_path / "one", code=2).stderr
    tidegate(*args, tmp_path / "two")
    first, second = records(tidegate, db)
    assert second["prev"] == first["hash"]


def test_a_record_is_hashed_as_any_json_library_writes_it(tidegate: Tidegate, ward: Path, tmp_path: Path) -> None:
    tidegate("run", "ward", "--source", ward, "--sink", tmp_path / "t.db")
    for record in records(tidegate, tmp_path / "t.db"):
        claimed = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == claimed


def test_help_explains_every_command(tidegate: Tidegate) -> None:
    listed = tidegate("--help").stdout
    for command in (
        "run",
        "demo",
        "decisions",
        "verify",
        "accept",
        "override",
        "replay-dead-letters",
        "bench",
        "doctor",
        "read",
        "model",
        "train",
        "compress",
        "evaluate",
        "corpus",
    ):
        assert command in listed
        assert tidegate(command, "--help").stdout.count("\n") > 5


def test_the_doctor_finds_this_installation_whole(tidegate: Tidegate) -> None:
    assert "WRONG" not in tidegate("doctor").stdout
    settings = tidegate("doctor", "--settings").stdout
    assert "allowed_lateness_s | 10.0" in settings
