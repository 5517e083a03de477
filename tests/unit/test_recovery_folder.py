"""What is wrong with a recovery folder is said in words, with the way out, and nothing is decided meanwhile."""

import errno
import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bytewax.recovery import InconsistentPartitionsError, NoPartitionsError

import flows.run
from flows import store
from flows.engine import PeerLost
from flows.recovery import STORE, recovery_of, trouble
from flows.run import RunOptions, run_flow
from schemas.errors import SinkLost, UsageError

START_MS = 1_772_438_400_000
ANEW = "start with a new --recovery, decisions go on in the same chains"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small source, a store and the recovery folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("ran")
    rows = [json.dumps({"ts": START_MS + 1000 * at, "patient": "p-01", "hr": 70}) + "\n" for at in range(130)]
    (folder / "src").mkdir()
    (folder / "src" / "vitals.jsonl").write_text("".join(rows))
    run(folder)
    return folder


@pytest.fixture
def site(ran: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ran, tmp_path / "site"))


def run(site: Path, sink: str = "t.db", **more: Any) -> None:
    given = {"recovery": site / "state", "model": "none"} | more
    run_flow(RunOptions(flow="ward", source=str(site / "src"), sink=str(site / sink), **given))


def decided(site: Path, sink: str = "t.db") -> int:
    return len(list(store.decisions(site / sink)))


def sql(*statements: str) -> Change:
    def change(part: Path) -> None:
        with closing(sqlite3.connect(part)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    return change


DAMAGE: dict[str, Change] = {
    "file is not a database": lambda part: part.write_bytes(b"no database" * 1000),
    "malformed": lambda part: part.write_bytes(part.read_bytes()[:5000]),
    "part-0.sqlite3: *** in database main ***": lambda part: part.write_bytes(part.read_bytes()[:-4096] + bytes(4096)),
    "no such table: parts": lambda part: part.write_bytes(b""),
    "its snapshots are gone": lambda part: part.unlink(),
    "a part of it is missing": sql("UPDATE parts SET part_count = 2"),
    "too old to resume": sql("UPDATE commits SET commit_epoch = 99"),
    "source vitals: Ran out of input": sql("UPDATE snaps SET ser_change = x'80055d' WHERE state_key = 'vitals'"),
    "unsupported pickle protocol: 162": sql("UPDATE snaps SET ser_change = x'80A2' WHERE step_id LIKE '%gate'"),
    "invalid load key": sql("UPDATE snaps SET ser_change = x'FFFF' WHERE step_id LIKE '%window'"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_refused_with_its_name_and_the_way_out_which_helps(site: Path, what: str) -> None:
    with closing(sqlite3.connect(site / "state" / "part-0.sqlite3")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    DAMAGE[what](site / "state" / "part-0.sqlite3")
    with pytest.raises(UsageError) as refusal:
        run(site)
    said = str(refusal.value)
    assert said.startswith(f"the recovery folder {site / 'state'} is damaged (")
    assert what in said
    assert said.endswith(f": {ANEW}")
    assert "\n" not in said
    before = decided(site)
    run(site, recovery=site / "new")
    assert decided(site) == before > 0
    assert store.verify(site / "t.db").records == before


@pytest.mark.parametrize("step", ["source", "window", "gate"])
def test_a_snapshot_of_another_version_is_refused_with_the_version_it_holds(site: Path, step: str) -> None:
    with closing(sqlite3.connect(site / "state" / "part-0.sqlite3")) as db:
        query = "SELECT rowid, ser_change FROM snaps WHERE step_id LIKE ?"
        for row, change in db.execute(query, (f"%{step}",)).fetchall():
            kind, *state = pickle.loads(change)
            newer = pickle.dumps(type(pickle.loads(change))([f"{kind.split('/')[0]}/99", *state]))
            db.execute("UPDATE snaps SET ser_change = ? WHERE rowid = ?", (newer, row))
        db.commit()
    with pytest.raises(UsageError, match=rf"holds what this version cannot read \(.*/99 .*\): {ANEW}$"):
        run(site)


def test_a_full_disk_is_a_sink_that_is_lost_and_nothing_is_begun(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    for folder in (site / "state", site / "new"):
        with pytest.raises(SinkLost, match=f"the disk that holds {folder} is full: free space, then start again"):
            run(site, recovery=folder)
    assert not list((site / "new").iterdir())


def test_what_bytewax_raises_of_its_store_is_told_as_what_it_is(site: Path) -> None:
    folder = site / "state"
    unwrap = "(src/run.rs:167:13) called `Result::unwrap()` on an `Err` value: SqliteFailure(Error { code: "
    full = RuntimeError(unwrap + 'DiskFull, extended_code: 13 }, Some("database or disk is full"))')
    assert isinstance(trouble(folder, full), SinkLost)
    failing = RuntimeError(unwrap + 'SystemIoFailure, extended_code: 4874 }, Some("disk I/O error"))')
    assert "full or failing (disk I/O error)" in str(trouble(folder, failing))
    corrupt = RuntimeError(unwrap + 'DatabaseCorrupt, extended_code: 11 }, Some("malformed"))')
    closed = RuntimeError(unwrap + 'CannotOpen, extended_code: 14 }, Some("unable to open database file"))')
    for error, words in (
        (corrupt, "is damaged (malformed)"),
        (closed, "cannot be used (unable to open database file)"),
        (NoPartitionsError("none"), "is damaged (none)"),
        (InconsistentPartitionsError("too old"), "is damaged (too old)"),
    ):
        found = trouble(folder, error)
        assert isinstance(found, UsageError)
        assert words in str(found)
    # Where the error says nothing of it, the folder is looked at: one of several processes is all that a panic shows.
    assert trouble(folder, PeerLost("gone")) is None
    (folder / "part-0.sqlite3").write_bytes(b"")
    assert isinstance(trouble(folder, PeerLost("gone")), UsageError)


def test_a_folder_goes_with_its_own_store_alone_and_the_refused_store_is_left_empty(site: Path) -> None:
    with pytest.raises(UsageError, match=rf"belongs to another store than {site}/other.db, .*--sink .*{ANEW}$"):
        run(site, "other.db")
    assert decided(site, "other.db") == 0
    run(site)  # its own one goes on
    (site / "moved.db").write_bytes((site / "t.db").read_bytes())
    run(site, "moved.db")  # and so does a copy


def test_a_folder_that_was_made_without_the_name_of_its_store_is_taken_as_it_is(site: Path) -> None:
    (site / "state" / STORE).unlink()
    run(site)
    assert not (site / "state" / STORE).exists()


def test_a_folder_that_no_run_has_begun_with_goes_with_any_store(site: Path) -> None:
    for sink in ("one.db", "two.db"):
        store_of = site / sink
        shutil.copy(site / "t.db", store_of)
        with closing(sqlite3.connect(store_of)) as db:
            db.execute("UPDATE identity SET token = ?", (sink,))
            db.commit()
        assert recovery_of(site / "fresh", store_of) is not None
        assert (site / "fresh" / STORE).read_text() == sink


def test_what_is_stored_is_published_at_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []

    class Followed(flows.run.Followers):
        def wake(self) -> None:
            woken.append(decided(site, "fresh.db"))

    monkeypatch.setattr(flows.run, "Followers", Followed)
    outlets: Sequence[str] = (f"parquet:{site / 'out'}",)
    run(site, "fresh.db", recovery=None, outlets=outlets)
    assert woken
    assert woken[-1] == decided(site, "fresh.db") > 0
