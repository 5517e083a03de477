import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flows.connectors.sqlite import Batch, SqliteStore
from flows.store import accept, accepted_settings, override, verify
from schemas.decisions import decision_id
from schemas.errors import SinkLost, UsageError
from tests.unit.sealed import SCALE_2, SENSOR, Chains, instant

BY, WHY = "Dr A. Meyer", "target 88-92 % is documented"

WARD = {"spo2_scale_2": {"spo2_scale": 2}}


@pytest.fixture
def chains() -> Chains:
    return Chains()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path / "tidegate.db")
    yield made
    made.close()


@pytest.fixture
def path(store: SqliteStore, tmp_path: Path, chains: Chains) -> Path:
    """p-01: no proposal, then one with a revision; p-02: two proposals in one decision."""
    records = [
        chains.add("p-01", 0),
        chains.add("p-01", 0, 1, proposals=[SCALE_2]),
        chains.add("p-02", 0, proposals=[SENSOR, SCALE_2]),
        chains.add("p-03", 0),
    ]
    store.write(Batch(records), 1)
    return tmp_path / "tidegate.db"


def one(key: str, minute: int = 0) -> str:
    return decision_id("ward", key, minute * 60_000_000, minute * 60_000_000 + 60_000_000, "rule/1")


def logged(path: Path) -> list[dict[str, Any]]:
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in db.execute("SELECT * FROM human_actions ORDER BY n")]
    finally:
        db.close()


def test_accepting_the_one_proposal_logs_who_why_and_what_was_seen(path: Path, chains: Chains) -> None:
    assert accept(path, one("p-01"), f"  {BY} ", WHY, at_us=42) == "spo2_scale_2"
    (row,) = logged(path)
    assert {
        name: row[name] for name in ("n", "at_us", "decision_id", "verb", "proposal", "action", "by", "reason")
    } == {
        "n": 1,
        "at_us": 42,
        "decision_id": one("p-01"),
        "verb": "accept",
        "proposal": "spo2_scale_2",
        "action": None,
        "by": BY,
        "reason": WHY,
    }
    assert row["decision_hash"] == chains.heads["ward", "p-01"][1]  # of the last revision
    assert verify(path).human_actions == 1


def test_what_cannot_be_accepted_is_refused_with_advice_and_leaves_nothing(path: Path) -> None:
    refused = [
        (one("p-01", 9), BY, WHY, None, "there is no decision .* lists them"),
        (one("p-03"), BY, WHY, None, "nothing to accept, proposals are none: use override"),
        (one("p-02"), BY, WHY, None, "several proposals: choose one of check_sensor, spo2_scale_2"),
        (one("p-02"), BY, WHY, "scale", "no proposal scale: choose one of check_sensor, spo2_scale_2"),
        (one("p-01"), " ", WHY, None, "--by is empty: say who acts and why"),
        (one("p-01"), BY, "\t", None, "--reason is empty: say who acts and why"),
        (one("p-01"), "x" * 129, WHY, None, "--by has 129 characters, at most 128"),
        (one("p-01"), BY, "x" * 2001, None, "--reason has 2001 characters, at most 2000"),
    ]
    for decision, by, reason, proposal, why in refused:
        with pytest.raises(UsageError, match=why):
            accept(path, decision, by, reason, at_us=1, proposal=proposal)
    with pytest.raises(UsageError, match="there is no database"):
        accept(path.with_suffix(".none"), one("p-01"), BY, WHY, at_us=1)
    assert logged(path) == []


def test_no_proposal_is_accepted_twice(path: Path) -> None:
    assert accept(path, one("p-02"), BY, WHY, at_us=1, proposal="spo2_scale_2") == "spo2_scale_2"
    with pytest.raises(UsageError, match=r"spo2_scale_2 of decision .* was accepted before"):
        accept(path, one("p-02"), BY, WHY, at_us=2, proposal="spo2_scale_2")
    assert accept(path, one("p-02"), BY, WHY, at_us=3) == "check_sensor"  # the one that is left
    with pytest.raises(UsageError, match="were all accepted before"):
        accept(path, one("p-02"), BY, WHY, at_us=4)
    assert [row["proposal"] for row in logged(path)] == ["spo2_scale_2", "check_sensor"]


def test_an_override_may_name_an_action_and_may_be_repeated(path: Path) -> None:
    override(path, one("p-03"), BY, "seen at the bedside", at_us=1)
    override(path, one("p-03"), "Dr B", "worse again", at_us=2, action="urgent")
    assert [(row["verb"], row["action"], row["proposal"]) for row in logged(path)] == [
        ("override", None, None),
        ("override", "urgent", None),
    ]
    assert verify(path).human_actions == 2
    for decision, by, why in ((one("p-09"), BY, "there is no decision"), (one("p-03"), "", "--by is empty")):
        with pytest.raises(UsageError, match=why):
            override(path, decision, by, WHY, at_us=3)
    with pytest.raises(UsageError, match="--action is empty"):
        override(path, one("p-03"), BY, WHY, at_us=3, action=" ")


def test_accepted_scales_become_settings_in_the_order_of_acceptance(
    store: SqliteStore, path: Path, chains: Chains
) -> None:
    store.write(Batch([chains.add("p-01", 7, flow="other", proposals=[SCALE_2])]), 2)
    override(path, one("p-02"), BY, WHY, at_us=5)
    accept(path, one("p-02"), "Dr B", WHY, at_us=6, proposal="spo2_scale_2")
    accept(path, one("p-02"), BY, WHY, at_us=7, proposal="check_sensor")
    accept(path, one("p-01"), BY, WHY, at_us=8)
    accept(path, decision_id("other", "p-01", 7 * 60_000_000, 8 * 60_000_000, "rule/1"), BY, WHY, at_us=9)
    ward = accepted_settings(path, "ward", "patient", WARD)
    assert ward == [
        {"offset": 2, "ts": instant(1), "patient": "p-02", "spo2_scale": 2, "by": "Dr B"},
        {"offset": 4, "ts": instant(1), "patient": "p-01", "spo2_scale": 2, "by": BY},
    ]
    sensors = accepted_settings(path, "ward", "bed", {"check_sensor": {"doubtful": True}})
    assert sensors == [{"offset": 3, "ts": instant(1), "bed": "p-02", "doubtful": True, "by": BY}]
    assert accepted_settings(path.with_suffix(".none"), "ward", "patient", WARD) == []


def test_an_acceptance_survives_a_restart_that_replaces_its_decision(store: SqliteStore, path: Path) -> None:
    accept(path, one("p-01"), BY, WHY, at_us=1)
    again = Chains()
    store.write(Batch([again.add("p-01", 0), again.add("p-01", 0, 1, proposals=[SCALE_2], action="review")]), 2)
    assert [row["patient"] for row in accepted_settings(path, "ward", "patient", WARD)] == ["p-01"]
    with pytest.raises(UsageError, match="accepted before"):
        accept(path, one("p-01"), BY, WHY, at_us=3, proposal="spo2_scale_2")
    verified = verify(path)
    assert (verified.human_actions, verified.superseded) == (1, 1)


def test_people_may_act_while_a_flow_writes(store: SqliteStore, path: Path, chains: Chains) -> None:
    def act(nth: int) -> None:
        override(path, one("p-03"), f"Dr {nth}", WHY, at_us=nth)

    with ThreadPoolExecutor(3) as pool:
        acting = pool.map(act, range(15))
        for minute in range(1, 30):
            store.write(Batch([chains.add("p-01", minute)]), 1)
        list(acting)
    verified = verify(path)
    assert (verified.records, verified.human_actions) == (33, 15)


def test_a_file_that_stays_locked_is_told_and_nothing_is_logged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.store.actions.BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SinkLost, match="stayed locked"):
        accept(path, one("p-01"), BY, WHY, at_us=1)
    other.execute("ROLLBACK")
    other.close()
    assert logged(path) == []
