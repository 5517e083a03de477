import os
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.connectors.sqlite import SCHEMA_VERSION, Batch, DeadLetter, SqliteStore, Timed
from flows.store import Broken, dead_letters, decisions, follow, mark_replayed, records, verify
from schemas.decisions import canonical
from schemas.errors import SinkLost, UsageError
from tests.unit.first_store import first_store
from tests.unit.sealed import Chains, instant

DECISION = "id revision flow key start_us end_us seq action record hash prev latency_us written_us"
GOLDEN = {
    "decisions": f"n {DECISION}",
    "superseded": f"n {DECISION} superseded_us",
    "dead_letters": "source offset reason detail raw stream flow written_us replayed_us header n",
    "alerts": "flow key kind action at_us decision_id",
    "human_actions": "n at_us decision_id decision_hash verb proposal action by reason prev hash",
    "checkpoints": "n flow prev heads total superseded human_n human_hash hash written_us",
    "outlets": "name dead_letters n letter_n sent failed why at_us",
    "refusals": "outlet kind n id revision why at_us",
    "traces": "hash traceparent",
    "identity": "token",
}
LETTER = DeadLetter("ward", "vitals", "vitals:0", 7, "not_json", "line 1", b"{\xff")
ALERT = {"flow": "ward", "key": "p-01", "kind": "rise", "action": "review", "at_us": 5, "decision_id": "d"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(path, busy_timeout_s=0.05)
    yield made
    made.close()


def dump(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return list(db.iterdump())
    finally:
        db.close()


def column(path: Path, query: str) -> list[object]:
    db = sqlite3.connect(path)
    try:
        return [value for (value,) in db.execute(query)]
    finally:
        db.close()


def tables(path: Path) -> dict[str, str]:
    names = column(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {
        str(table): " ".join(map(str, column(path, f"SELECT name FROM pragma_table_info('{table}')")))
        for table in names
    }


def test_table_and_column_names_never_change_silently(store: SqliteStore, path: Path) -> None:
    assert tables(path) == GOLDEN
    assert column(path, "PRAGMA user_version") == [2]
    assert column(path, "PRAGMA application_id") == [0x54444754]
    assert column(path, "PRAGMA journal_mode") == ["wal"]


def test_records_come_back_as_they_were_sealed_in_order_of_window_end_key_and_revision(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PAGE_ROWS", 2)
    chains = Chains()
    order = [("b", 1, 0), ("a", 1, 0), ("a", 2, 0), ("a", 1, 1), ("b", 0, 0), ("é", 0, 0)]
    sealed = [chains.add(*each) for each in order]
    store.write(Batch(sealed), written_us=9)
    read = list(decisions(path))
    assert [(each["key"], each["window"][0], each["revision"]) for each in read] == [
        (key, instant(minute), revision) for minute, key, revision in sorted((m, k, r) for k, m, r in order)
    ]
    assert sorted(map(canonical, read)) == sorted(record.text.encode() for record, _ in sealed)
    assert column(path, "SELECT DISTINCT latency_us FROM decisions") == [1500]


def test_readers_can_ask_for_one_flow_and_for_what_ends_later(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    store.write(Batch([chains.add("a", minute, flow=flow) for minute in range(3) for flow in ("road", "ward")]), 1)
    assert [each["flow"] for each in decisions(path, flow="road")] == ["road"] * 3
    end_us = int(str(column(path, "SELECT min(end_us) FROM decisions")[0]))
    later = [each["window"][0] for each in decisions(path, flow="ward", after_us=end_us)]
    assert later == [instant(1), instant(2)]
    assert store.heads("road") == {"a": (2, chains.heads["road", "a"][1])}


def test_writing_a_batch_again_changes_nothing(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    batch = Batch([chains.add(key, minute) for minute in range(3) for key in "ab"], [LETTER], [ALERT])
    store.write(batch, written_us=1)
    before = dump(path)
    store.write(batch, written_us=2)
    store.write(Batch(batch.records[:3]), written_us=3)
    store.write(Batch(), written_us=4)
    assert dump(path) == before


@settings(max_examples=20, deadline=None)
@given(
    plan=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6),
)
def test_crashes_and_rewrites_end_in_the_records_of_an_undisturbed_run(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]], cuts: list[tuple[int, int]]
) -> None:
    chains = Chains()
    sealed = [chains.add(key, minute) for minute, (key, _) in enumerate(plan)]
    path = tmp_path_factory.mktemp("crash") / "t.db"
    for start, length in [*cuts, (0, len(sealed))]:
        written = len(column(path, "SELECT n FROM decisions")) if path.exists() else 0
        first = min(start, written)  # a recovery store is never ahead of what was written
        store = SqliteStore(path)
        store.write(Batch(sealed[first : first + length]), written_us=1)
        store.close()
    assert sorted(canonical(each) for each in decisions(path)) == sorted(record.text.encode() for record, _ in sealed)
    assert verify(path).records == len(plan)


def test_a_restart_that_decides_otherwise_sets_the_old_branch_aside_and_keeps_it(
    store: SqliteStore, path: Path
) -> None:
    chains = Chains()
    store.write(Batch([chains.add("a", 0), chains.add("b", 0)]), 1)
    snapshot = chains.copy()
    old = [chains.add("a", 1), chains.add("a", 1, 1), chains.add("a", 2)]
    store.write(Batch(old), 2)
    new = [snapshot.add("a", 1), snapshot.add("a", 2), snapshot.add("a", 1, 1, action="review")]
    store.write(Batch(new[:2]), 3)
    store.write(Batch(new), 4)
    kept = {canonical(each) for each in decisions(path)}
    assert kept >= {record.text.encode() for record, _ in new}
    assert len(kept) == 5
    aside = column(path, "SELECT hash FROM superseded ORDER BY seq")
    assert aside == [record.hash for record, _ in old[1:]]
    assert column(path, "SELECT DISTINCT superseded_us FROM superseded") == [3]
    verified = verify(path)
    assert (verified.records, verified.superseded) == (5, 2)


def test_records_that_do_not_follow_the_stored_ones_are_refused_with_advice(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    sealed = [chains.add("p-01", minute) for minute in range(3)]
    store.write(Batch(sealed[:1], [LETTER]), 1)
    before = dump(path)
    with pytest.raises(UsageError, match=r"record 2 of p-01 does not follow .* new --recovery"):
        store.write(Batch(sealed[2:], [LETTER._replace(offset=8)]), 2)
    twice = chains.copy()
    twice.heads["ward", "p-01"] = (0, sealed[0][0].hash)
    with pytest.raises(UsageError, match="offered a second time"):
        store.write(Batch([twice.add("p-01", 0)]), 2)
    assert dump(path) == before


def test_a_full_disk_stops_with_advice_loses_nothing_and_resumes(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    first = [chains.add("a", minute) for minute in range(20)]
    second = [chains.add("a", minute) for minute in range(20, 120)]
    store.write(Batch(first), 1)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(SinkLost, match=r"is full: free space, then start again with the same --recovery"):
        store.write(Batch(second, [LETTER]), 2)
    assert verify(path).records == 20
    assert list(dead_letters(path)) == []
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.write(Batch(second, [LETTER]), 3)
    assert verify(path).records == 120


def test_a_real_full_disk_stops_with_advice_and_resumes(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        (tmp_path / "ballast").write_bytes(bytes(256 * 1024))
        path, chains = tmp_path / "t.db", Chains()
        batches = [Batch([chains.add("a", minute)]) for minute in range(500)]
        store = SqliteStore(path)

        def write_all() -> None:
            for batch in batches:
                store.write(batch, 1)

        with pytest.raises(SinkLost, match="full"):
            write_all()
        store.close()
        written = verify(path).records
        assert 0 < written < 500
        (tmp_path / "ballast").unlink()
        again = SqliteStore(path)
        again.write(batches[written], 2)
        again.close()
        assert verify(path).records == written + 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_locked_or_removed_file_is_a_lost_sink(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    batch = Batch([chains.add("a", 0)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SinkLost, match="stayed locked by another program"):
        store.write(batch, 1)
    other.execute("ROLLBACK")
    other.close()
    store.write(batch, 1)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(SinkLost, match="removed or replaced"):
        store.write(Batch([chains.add("a", 1)]), 2)
    path.with_suffix(".away").rename(path)
    assert verify(path).records == 1


def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    other, text, newer, empty = (tmp_path / name for name in ("other.db", "notes.txt", "newer.db", "empty.db"))
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE mine (a)")
    db.close()
    text.write_text("not a database at all, only some words that go on for a while")
    SqliteStore(newer).close()
    db = sqlite3.connect(newer)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    empty.touch()
    for path, why in ((other, "another program"), (text, "cannot be read as a database"), (newer, "newer Tidegate")):
        before = path.read_bytes()
        with pytest.raises(UsageError, match=why):
            SqliteStore(path)
        with pytest.raises(UsageError, match=why):
            decisions(path)
        assert path.read_bytes() == before
    with pytest.raises(UsageError, match="check that its folder exists"):
        SqliteStore(tmp_path / "nowhere" / "t.db")
    with pytest.raises(UsageError, match="there is no database"):
        verify(tmp_path / "missing.db")
    with pytest.raises(UsageError, match="not a Tidegate database"):
        decisions(empty)


def test_a_copy_on_a_disk_that_may_only_be_read_can_be_read(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(Batch([Chains().add("a", 0)]), 1)
    store.close()
    monkeypatch.setattr(os, "access", lambda where, _: where != path.parent)
    assert len(list(decisions(path))) == 1
    assert list(path.parent.iterdir()) == [path]  # nothing was made beside it


def test_a_damaged_file_is_told_in_plain_words(store: SqliteStore, path: Path) -> None:
    store.write(Batch([Chains().add("a", 0)]), 1)
    store.close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")  # the kind of the first page
    with pytest.raises(SinkLost, match=r"is damaged .* put back a copy"):
        list(decisions(path))
    with pytest.raises(Broken, match="file: it cannot be read"):
        verify(path)


def test_many_writers_may_make_the_same_new_file(path: Path) -> None:
    def run(key: str) -> None:
        store, chains = SqliteStore(path, busy_timeout_s=10), Chains()
        for minute in range(5):
            store.write(Batch([chains.add(key, minute)]), 1)
        store.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, "abcd"))
    assert (verify(path).records, verify(path).checkpoints) == (20, 20)


def test_readers_see_whole_batches_while_a_writer_is_in_the_middle_of_one(store: SqliteStore, path: Path) -> None:
    chains = Chains()
    store.write(Batch([chains.add("a", 0)]), 1)
    store._db.execute("BEGIN IMMEDIATE")
    store._db.execute("DELETE FROM decisions")
    assert len(list(decisions(path))) == 1
    assert verify(path).records == 1
    store._db.execute("ROLLBACK")


def test_following_yields_each_record_as_it_is_written_and_replacements_too(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PAGE_ROWS", 1)
    chains = Chains()
    store.write(Batch([chains.add("b", 5)]), 1)
    snapshot, waits = chains.copy(), []

    def rest(seconds: float) -> None:
        waits.append(seconds)
        steps = {1: [("a", 3)], 2: [("b", 6), ("b", 7)], 4: []}
        if len(waits) in steps:
            store.write(Batch([chains.add(*each) for each in steps[len(waits)]]), 1)
        if len(waits) == 3:
            replaced: list[Timed] = [snapshot.add("b", 6, action="review")]
            store.write(Batch(replaced), 2)

    seen = list(follow(path, rest, poll_s=0.5, done=lambda: len(waits) == 4))
    assert [(each["key"], each["window"][0], each["action"]) for each in seen] == [
        ("b", instant(5), "nurse"),
        ("a", instant(3), "nurse"),
        ("b", instant(6), "nurse"),
        ("b", instant(7), "nurse"),
        ("b", instant(6), "review"),
    ]
    assert waits == [0.5] * 4


def test_dead_letters_wait_until_they_are_sent_again(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "PAGE_ROWS", 2)
    letters = [LETTER._replace(offset=offset, reason=reason) for offset in range(3) for reason in ("late", "not_json")]
    store.write(Batch(dead_letters=letters[::-1]), 1)
    assert list(dead_letters(path)) == letters
    assert [each.offset for each in dead_letters(path, reason="late")] == [0, 1, 2]
    mark_replayed(path, letters[:5], at_us=77)
    assert list(dead_letters(path, waiting=True)) == letters[5:]
    others = [letters[1]._replace(raw=b"another file"), letters[2]._replace(header=b"another,header")]
    store.write(Batch(dead_letters=[letters[0], *others]), 2)
    assert list(dead_letters(path, waiting=True)) == [*others, letters[5]]


@pytest.mark.parametrize("writer_first", [True, False])
def test_a_store_of_the_first_version_is_brought_to_this_one(path: Path, writer_first: bool) -> None:
    first_store(path, [LETTER[:7]])
    assert list(decisions(path)) == []
    assert column(path, "PRAGMA user_version") == [1]  # to read decisions, nothing is written
    if writer_first:
        SqliteStore(path).close()
    assert list(dead_letters(path, waiting=True)) == [LETTER]
    assert column(path, "PRAGMA user_version") == [SCHEMA_VERSION]
    assert tables(path) == GOLDEN
    of_csv = LETTER._replace(offset=8, raw=b"1,p", header=b"ts,patient")
    with closing(SqliteStore(path)) as again:
        again.write(Batch([Chains().add("a", 0)], [LETTER, of_csv]), 2)
    assert list(dead_letters(path)) == [LETTER, of_csv]
    assert verify(path).records == 1


def test_two_edges_of_one_instant_are_both_kept(store: SqliteStore, path: Path) -> None:
    store.write(Batch(alerts=[ALERT, {**ALERT, "action": "emergency"}]), 1)
    store.write(Batch(alerts=[ALERT]), 2)
    assert column(path, "SELECT action FROM alerts ORDER BY action") == ["emergency", "review"]
