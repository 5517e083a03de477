"""The ledger: chains by key, readings remembered, state that survives."""

from typing import Any

import orjson
import pytest

from operators.domain import Domain, Judgement, Text
from operators.ledger import Ledger
from schemas.decisions import GENESIS
from schemas.reading import Abstain, Reading
from schemas.windows import WindowSpec
from tests.unit.sealed import intact

MINUTE_US = 60_000_000


def domain() -> Domain:
    """Raises to `act` where the reader says `bad`."""
    return Domain(
        name="test",
        revision="1",
        actions=("none", "act"),
        streams=(),
        window=WindowSpec(),
        aggregates=(),
        rule=lambda frame: frame,
        judge=lambda row, labels: Judgement(
            {"action": "none"}, "act" if "bad" in labels else "none", list(labels), (), ""
        ),
        text=Text("notes", "note", 10 * MINUTE_US),
    )


def row(minute: int, key: str = "k", note: str | None = "hello") -> dict[str, Any]:
    return {
        "key": key,
        "start_us": minute * MINUTE_US,
        "end_us": (minute + 1) * MINUTE_US,
        "rows": 1,
        "offsets": [{"partition": 0, "first": minute, "last": minute}],
        "features_sha256": "f" * 64,
        "note": note,
        "notes_us": 0,
        "notes_offset": 0,
    }


def test_each_key_has_a_chain_of_its_own_that_starts_at_genesis() -> None:
    ledger = Ledger(domain(), ["vitals"], None, MINUTE_US)
    made = [ledger.append(row(minute, key), "hello", Reading(), 0)[0] for minute in range(3) for key in "ab"]
    for key in "ab":
        chain = [record for record in made if record.key == key]
        assert [record.seq for record in chain] == [0, 1, 2]
        assert [record.prev for record in chain] == [GENESIS, chain[0].hash, chain[1].hash]
        assert all(intact(orjson.loads(record.text)) for record in chain)


def test_a_ledger_restored_in_the_middle_writes_the_same_records() -> None:
    whole, first = (
        Ledger(domain(), ["vitals"], {"name": "m"}, MINUTE_US),
        Ledger(domain(), ["vitals"], {"name": "m"}, MINUTE_US),
    )
    reading = Reading(("bad",), {"bad": 0.9}, {"bad": [(0, 2)]})
    whole.learn("k", "sha", reading)
    first.learn("k", "sha", reading)
    expected = [whole.append(row(minute), "hello", reading, 0) for minute in range(4)]
    made = [first.append(row(minute), "hello", reading, 0) for minute in range(2)]
    second = Ledger(domain(), ["vitals"], {"name": "m"}, MINUTE_US, first.snapshot())
    assert second.known("k", "sha") == Reading(("bad",), {"bad": 0.9}, {"bad": [(0, 2)]})
    assert made + [second.append(row(minute), "hello", reading, 0) for minute in range(2, 4)] == expected


def test_a_new_ledger_goes_on_where_the_stored_chain_stands() -> None:
    ledger = Ledger(domain(), ["vitals"], None, MINUTE_US, place=lambda key, decision: (7, "f" * 64))
    record, _ = ledger.append(row(0), None, Reading(abstain=Abstain.NO_TEXT), 0)
    assert (record.seq, record.prev) == (7, "f" * 64)


def test_a_snapshot_of_another_version_is_not_taken() -> None:
    with pytest.raises(ValueError, match="version 99"):
        Ledger(domain(), ["vitals"], None, MINUTE_US, b"[99, {}]")


def test_an_alert_opens_once_and_closes_when_the_action_is_none_again() -> None:
    ledger = Ledger(domain(), ["vitals"], None, 100 * MINUTE_US)
    readings = [Reading(("bad",))] * 3 + [Reading()]
    kinds = [
        [alert["kind"] for alert in ledger.append(row(at), None, reading, 0)[1]] for at, reading in enumerate(readings)
    ]
    assert kinds == [["open"], [], [], ["close"]]


def test_a_key_that_goes_quiet_with_an_open_alert_is_told_again_on_the_timer_for_a_day() -> None:
    ledger = Ledger(domain(), ["vitals"], None, 15 * MINUTE_US)
    record, _ = ledger.append(row(0), None, Reading(("bad",)), 0)
    told = [alert for minute in range(2, 2 * 24 * 60) for alert in ledger.tick(minute * MINUTE_US)]
    assert len(told) == 24 * 60 // 15
    assert {(alert["kind"], alert["action"], alert["decision_id"]) for alert in told} == {
        ("renotify", "act", record.id)
    }


def test_a_new_note_that_is_still_being_read_does_not_close_the_alert() -> None:
    ledger = Ledger(domain(), ["vitals"], None, 100 * MINUTE_US)
    ledger.append(row(0), None, Reading(("bad",)), 0)
    assert ledger.append(row(1), None, Reading(abstain=Abstain.PENDING), 0)[1] == []
    assert ledger.append(row(1), None, Reading(("bad",)), 1)[1] == []
