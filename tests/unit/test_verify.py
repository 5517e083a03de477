import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.connectors.sqlite import (
    ACTION_COLUMNS,
    CHECKPOINT_COLUMNS,
    Batch,
    SqliteStore,
    append_checkpoint,
    row_hash,
)
from flows.store import Broken, Verified, accept, override, verify
from schemas.decisions import canonical
from tests.unit.sealed import SCALE_2, Chains, intact, seal

MINUTES = 5
SET_ASIDE = 3
"""The first minute of p-02 that was decided twice."""
CHAINED = {"decisions": 12, "superseded": 12, "human_actions": 11, "checkpoints": 9}
"""Columns of each table before those that no chain covers, the wall clock."""


def make(path: Path) -> None:
    """Two flows, three keys, a branch that was set aside, two human actions."""
    store, chains, snapshots = SqliteStore(path), Chains(), []
    for minute in range(MINUTES):
        snapshots.append(chains.copy())
        store.write(Batch([chains.add(key, minute, proposals=[SCALE_2]) for key in ("p-01", "p-02")]), 1)
    again = snapshots[SET_ASIDE]
    store.write(Batch([again.add("p-02", minute, action="review") for minute in range(SET_ASIDE, MINUTES)]), 2)
    for minute in range(MINUTES):
        store.write(Batch([chains.add("A9", minute, flow="road")]), 3)
    store.close()
    db = sqlite3.connect(path)
    (first,) = db.execute("SELECT id FROM decisions WHERE key = 'p-01' AND seq = 0").fetchone()
    db.close()
    accept(path, first, "Dr A", "documented target", at_us=4)
    override(path, first, "Dr B", "seen at the bedside", at_us=5, action="none")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "whole.db"
    make(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.db"
    path.write_bytes(whole.read_bytes())
    return path


def tamper(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        assert db.execute(statement).rowcount > 0, statement
    db.commit()
    db.close()


def broken(path: Path) -> tuple[str, str | None, int | None]:
    with pytest.raises(Broken) as caught:
        verify(path)
    assert caught.value.why in str(caught.value)
    assert caught.value.exit_code == 1
    return caught.value.table, caught.value.key, caught.value.seq


def test_a_whole_file_is_counted_in_full(whole: Path, tmp_path: Path) -> None:
    assert verify(whole) == Verified(records=15, keys=3, checkpoints=13, human_actions=2, superseded=2)
    SqliteStore(tmp_path / "new.db").close()
    assert verify(tmp_path / "new.db") == Verified(0, 0, 0, 0, 0)


P1 = "key = 'p-01' AND seq"
HASH = """ '"hash":"' || hash || '",' """
WITHOUT = f"substr(replace(record, {HASH}, ''), 2)"
HUMAN = "UPDATE human_actions SET"
RECORDS = {
    "a byte of a record": (f"UPDATE decisions SET record = replace(record, '38.1', '38.7') WHERE {P1} = 2", "p-01", 2),
    "a space in a record": (f"UPDATE decisions SET record = record || ' ' WHERE {P1} = 2", "p-01", 2),
    "not JSON any more": (f"UPDATE decisions SET record = substr(record, 2) WHERE {P1} = 4", "p-01", 4),
    "its hash moved": (f"UPDATE decisions SET record = '{{' || {HASH} || {WITHOUT} WHERE {P1} = 2", "p-01", 2),
    "an empty record": (f"UPDATE decisions SET record = '' WHERE {P1} = 0", "p-01", 0),
    "no UTF-8 any more": (f"UPDATE decisions SET record = CAST(x'7bff7d' AS TEXT) WHERE {P1} = 3", "p-01", 3),
    "the last record": (f"DELETE FROM decisions WHERE {P1} = 4", "p-01", 4),
    "the last two records": (f"DELETE FROM decisions WHERE {P1} >= 3", "p-01", 3),
    "the first record": (f"DELETE FROM decisions WHERE {P1} = 0", "p-01", 0),
    "a middle record": (f"DELETE FROM decisions WHERE {P1} = 2", "p-01", 2),
    "a whole key": ("DELETE FROM decisions WHERE key = 'p-01'", "p-01", 0),
    "the last key": ("DELETE FROM decisions WHERE key = 'p-02'", "p-02", 0),
    "a whole flow": ("DELETE FROM decisions WHERE flow = 'road'", "A9", 0),
    "everything": ("DELETE FROM decisions", "A9", 0),
    "another key": (f"UPDATE decisions SET key = 'p-03' WHERE {P1} >= 3", "p-01", 3),
    "a key of its own": (f"UPDATE decisions SET key = 'p-00' WHERE {P1} = 0", "p-00", 0),
}


@pytest.mark.parametrize(("statement", "key", "seq"), RECORDS.values(), ids=RECORDS)
def test_a_changed_or_missing_record_is_named(copy: Path, statement: str, key: str, seq: int) -> None:
    tamper(copy, statement)
    assert broken(copy) == ("decisions", key, seq)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action", "'none'"),
        ("start_us", "start_us - 1"),
        ("end_us", "end_us + 1"),
        ("id", "'0'"),
        ("revision", "7"),
        ("hash", "prev"),
        ("prev", "hash"),
    ],
)
def test_a_column_that_disagrees_with_its_record_is_named(copy: Path, column: str, value: str) -> None:
    tamper(copy, f"UPDATE decisions SET {column} = {value} WHERE {P1} = 1")
    assert broken(copy) == ("decisions", "p-01", 1)


@pytest.mark.parametrize("columns", [("seq",), ("record",), ("id", "action", "record", "hash", "prev")])
def test_two_records_in_each_others_place_are_named_at_the_first(copy: Path, columns: tuple[str, ...]) -> None:
    db = sqlite3.connect(copy)
    rows = {
        seq: db.execute(f"SELECT n, {', '.join(columns)} FROM decisions WHERE {P1} = ?", (seq,)).fetchone()
        for seq in (1, 3)
    }
    db.execute(f"UPDATE decisions SET seq = seq + 1000, id = n WHERE {P1} IN (1, 3)")
    for seq, other in ((1, 3), (3, 1)):
        names = ", ".join(f"{name} = ?" for name in ("id", "seq", *columns))
        db.execute(f"UPDATE decisions SET {names} WHERE n = ?", (f"swapped {seq}", seq, *rows[other][1:], rows[seq][0]))
    if columns == ("seq",):
        db.execute("UPDATE decisions SET seq = CASE seq WHEN 1 THEN 3 ELSE 1 END + 2000 WHERE id LIKE 'swapped%'")
        db.execute("UPDATE decisions SET seq = seq - 2000 WHERE id LIKE 'swapped%'")
    db.commit()
    db.close()
    assert broken(copy) == ("decisions", "p-01", 1)


def reseal(path: Path, key: str, seq: int, **parts: Any) -> None:
    """Forge a record that is intact by itself."""
    db = sqlite3.connect(path)
    n, text = db.execute("SELECT n, record FROM decisions WHERE key = ? AND seq = ?", (key, seq)).fetchone()
    record = orjson.loads(text)
    forged = seal(
        {**{k: v for k, v in record.items() if k != "hash"}, **parts}, record["seq"], parts.get("prev", record["prev"])
    )
    assert intact(forged)
    values = (canonical(forged).decode(), forged["hash"], forged["prev"], forged["action"], n)
    db.execute("UPDATE decisions SET record = ?, hash = ?, prev = ?, action = ? WHERE n = ?", values)
    db.commit()
    db.close()


def test_a_forged_record_breaks_the_link_after_it_and_a_forged_tail_its_checkpoint(copy: Path) -> None:
    reseal(copy, "p-02", MINUTES - 1, action="none")
    assert broken(copy) == ("checkpoints", "p-02", MINUTES - 1)
    reseal(copy, "p-01", 2, action="none")
    assert broken(copy) == ("decisions", "p-01", 3)
    reseal(copy, "p-01", 0, prev="f" * 64)
    assert broken(copy) == ("decisions", "p-01", 0)


def test_the_lowest_of_several_faults_is_named(copy: Path) -> None:
    tamper(copy, f"{HUMAN} reason = '' WHERE n = 1")
    assert broken(copy) == ("human_actions", None, 1)
    tamper(copy, "UPDATE decisions SET action = '' WHERE key = 'p-02' AND seq > 1")
    assert broken(copy) == ("decisions", "p-02", 2)
    tamper(copy, "DELETE FROM decisions WHERE key = 'p-01'")
    assert broken(copy) == ("decisions", "p-01", 0)
    tamper(copy, "UPDATE decisions SET prev = '' WHERE key = 'A9' AND seq = 4")
    assert broken(copy) == ("decisions", "A9", 4)


def test_records_are_checked_before_the_checkpoints(copy: Path) -> None:
    tamper(copy, "UPDATE checkpoints SET total = 0 WHERE flow = 'ward' AND n = 1")
    assert broken(copy) == ("checkpoints", None, 1)
    tamper(copy, "UPDATE decisions SET action = '' WHERE key = 'p-02' AND seq > 1")
    assert broken(copy) == ("decisions", "p-02", 2)


CHECKPOINTS = {
    "the last, after an action": "DELETE FROM checkpoints WHERE flow = 'ward' AND n = 7",
    "the last of a flow": "DELETE FROM checkpoints WHERE flow = 'road' AND n = 4",
    "a middle one": "DELETE FROM checkpoints WHERE flow = 'ward' AND n = 3",
    "the first": "DELETE FROM checkpoints WHERE flow = 'ward' AND n = 0",
    "all": "DELETE FROM checkpoints",
    "heads": "UPDATE checkpoints SET heads = '{}' WHERE flow = 'ward' AND n = 3",
    "heads, no UTF-8": "UPDATE checkpoints SET heads = CAST(x'ff' AS TEXT) WHERE flow = 'ward' AND n = 3",
    "a total": "UPDATE checkpoints SET total = total + 1 WHERE flow = 'ward' AND n = 3",
    "a link": "UPDATE checkpoints SET prev = hash WHERE flow = 'ward' AND n = 3",
}


@pytest.mark.parametrize("statement", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_changed_or_missing_checkpoint_shows(copy: Path, statement: str) -> None:
    tamper(copy, statement)
    assert broken(copy)[0] == "checkpoints"


ACTIONS = {
    "a name": (f"{HUMAN} \"by\" = 'Dr C' WHERE n = 1", 1),
    "a time": (f"{HUMAN} at_us = 0 WHERE n = 2", 2),
    "a proposal": (f"{HUMAN} proposal = NULL WHERE n = 1", 1),
    "a reason, no UTF-8": (f"{HUMAN} reason = CAST(x'ff' AS TEXT) WHERE n = 2", 2),
    "the first": ("DELETE FROM human_actions WHERE n = 1", 1),
    "the last": ("DELETE FROM human_actions WHERE n = 2", 2),
    "all": ("DELETE FROM human_actions", 1),
}


@pytest.mark.parametrize(("statement", "n"), ACTIONS.values(), ids=ACTIONS)
def test_a_changed_or_missing_human_action_is_named(copy: Path, statement: str, n: int) -> None:
    tamper(copy, statement)
    assert broken(copy) == ("human_actions", None, n)


def forge(path: Path, table: str, where: str, **columns: Any) -> None:
    """Change a row and give it the hash it would have been written with."""
    names = CHECKPOINT_COLUMNS if table == "checkpoints" else ACTION_COLUMNS
    db = sqlite3.connect(path)
    row = dict(zip(names.split(", "), db.execute(f"SELECT {names} FROM {table} WHERE {where}").fetchone(), strict=True))
    forged = {**row, **columns}
    columns["hash"] = row_hash(list(forged.values())[:-1])
    changed = ", ".join(f"{name} = ?" for name in columns)
    db.execute(f"UPDATE {table} SET {changed} WHERE {where}", list(columns.values()))
    db.commit()
    db.close()


def test_a_forged_checkpoint_or_human_action_does_not_fit_in(copy: Path) -> None:
    forge(copy, "human_actions", "n = 1", reason="forged")
    assert broken(copy) == ("human_actions", None, 1)
    forge(copy, "checkpoints", "flow = 'ward' AND n = 2", human_n=9)
    assert broken(copy) == ("checkpoints", None, 3)
    forge(copy, "checkpoints", "flow = 'road' AND n = 4", total=4)
    assert broken(copy) == ("checkpoints", None, 4)


def test_a_human_action_on_a_decision_that_is_not_there_is_named(copy: Path) -> None:
    db = sqlite3.connect(copy)
    row = list(db.execute("SELECT * FROM human_actions WHERE n = 2").fetchone())
    row[0], row[3], row[-2] = 3, "0" * 64, row[-1]
    row[-1] = row_hash(row[:-1])
    db.execute(f"INSERT INTO human_actions VALUES ({', '.join('?' * len(row))})", row)
    append_checkpoint(db, "ward", {}, 0, 0, 9)
    db.commit()
    db.close()
    assert broken(copy) == ("human_actions", None, 3)


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE superseded SET record = replace(record, '38.1', '38.7')", ("superseded", "p-02", SET_ASIDE)),
        ("UPDATE superseded SET action = 'none' WHERE seq = 4", ("superseded", "p-02", 4)),
        ("DELETE FROM superseded WHERE seq = 3", ("superseded", "p-02", 4)),
        ("DELETE FROM superseded WHERE seq = 4", ("superseded", None, None)),
        ("DELETE FROM superseded", ("superseded", None, None)),
    ],
)
def test_a_record_that_was_set_aside_is_still_checked(
    copy: Path, statement: str, where: tuple[str, str | None, int | None]
) -> None:
    tamper(copy, statement)
    assert broken(copy) == where


def test_an_index_that_does_not_list_every_record_shows(copy: Path) -> None:
    db = sqlite3.connect(copy)
    db.execute("PRAGMA writable_schema = ON")
    empty = "(SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_alerts_1')"
    db.execute(f"UPDATE sqlite_master SET rootpage = {empty} WHERE name = 'decisions_order'")
    db.commit()
    db.close()
    assert broken(copy) == ("file", None, None)


def chained(path: Path) -> list[Any]:
    """Every value that the chains cover, read table by table without an index."""
    db = sqlite3.connect(path)
    db.text_factory = bytes
    try:
        return [
            (table, sorted(repr(row[:width]) for row in db.execute(f"SELECT * FROM {table} NOT INDEXED")))
            for table, width in CHAINED.items()
        ]
    finally:
        db.close()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_file_is_found_or_changes_nothing_that_is_chained(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "t.db"
    raw = bytearray(whole.read_bytes())
    at = int(place * (len(raw) - 100)) + 100  # behind the header, which says what kind of file it is
    raw[at] ^= 1 << bit
    path.write_bytes(raw)
    try:
        verify(path)
    except Broken:
        return
    assert chained(path) == chained(whole)


def test_a_flow_may_go_on_writing_during_the_check(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.store import chains as module

    fold: Callable[..., Any] = module._fold

    def fold_then_write(db: sqlite3.Connection) -> Any:
        ledger = fold(db)
        store = SqliteStore(copy)
        store.write(Batch([Chains().add("p-09", 0)]), 9)
        store.close()
        return ledger

    monkeypatch.setattr(module, "_fold", fold_then_write)
    assert verify(copy).records == 15
    monkeypatch.undo()
    assert verify(copy).records == 16
