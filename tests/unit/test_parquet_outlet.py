import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from io import BytesIO
from pathlib import Path

import orjson
import polars as pl
import pytest

from flows.connectors.outlets import Outlet, OutletDown, Pace, outlet
from flows.connectors.outlets.parquet import DEAD_LETTERS, DECISIONS, ParquetOutlet
from flows.connectors.outlets.stdout import StdoutOutlet
from flows.connectors.sqlite import Batch, SqliteStore
from flows.store import decisions
from flows.store.outbox import outlets, token
from schemas.settings import Settings
from tests.unit.outlet_fakes import QUICK, filled, follow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def to(folder: Path, store: Path, rows: int = 3) -> Outlet:
    return ParquetOutlet("files", folder, token(store), Pace(rows, 10**9))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(folder: Path, kind: str = "decision") -> list[int]:
    return [n for file in sorted(folder.glob(f"{kind}-*.parquet")) for n in pl.read_parquet(file)["n"].to_list()]


def test_files_hold_every_decision_and_dead_letter_once_and_say_which(path: Path, folder: Path) -> None:
    filled(path, 7, letters=4)
    follow(to(folder, path), path)
    ranges = [f"{kind}:{first}-{last}" for kind, _, first, last, _ in (name.split("-") for name in names(folder))]
    assert ranges == [
        "dead_letter:000000000001-000000000003",
        "dead_letter:000000000004-000000000004",
        "decision:000000000001-000000000003",
        "decision:000000000004-000000000006",
        "decision:000000000007-000000000007",
    ]
    frame = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("decision-*"))])
    assert dict(frame.schema) == DECISIONS
    assert [orjson.loads(text) for text in frame["record"]] == list(decisions(path))
    first = frame.row(0, named=True)
    record = orjson.loads(first["record"])
    assert (first["key"], first["rule_action"]) == (record["key"], record["rule"]["action"])
    assert first["window_start"].isoformat().replace("+00:00", "Z") == record["window"][0]
    letters = pl.read_parquet(next(iter(sorted(folder.glob("dead_letter-*")))))
    assert dict(letters.schema) == DEAD_LETTERS
    assert letters["offset"].to_list() == [0, 1, 2]


def test_a_file_is_bounded_in_bytes(path: Path, folder: Path) -> None:
    filled(path, 4)
    size = max(len(record[0].encode()) for record in rows(path, "SELECT record FROM decisions"))
    follow(ParquetOutlet("files", folder, token(path), Pace(100, size * 2, 3600)), path)
    assert [name.split("-")[2][-1] + name.split("-")[3][-1] for name in names(folder)] == ["12", "34"]


def rows(path: Path, query: str) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.execute(query))


def test_where_the_store_missed_that_a_file_was_written_the_file_says_so(path: Path, folder: Path) -> None:
    chains = filled(path, 4, letters=1)
    follow(to(folder, path), path)
    written = names(folder)
    rows_changed(path, "UPDATE outlets SET n = 0, letter_n = 0")
    with closing(SqliteStore(path)) as store:
        store.write(Batch([chains.add("p-01", 50)]), 1)
    follow(to(folder, path), path)
    assert set(written) < set(names(folder))
    assert numbers(folder) == [1, 2, 3, 4, 5]
    assert numbers(folder, "dead_letter") == [1]


def rows_changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


KILLED = """
import os, signal, sys
from pathlib import Path
from flows.connectors.outlets import Pace
from flows.connectors.outlets.parquet import ParquetOutlet
from flows.store.outbox import Outbox, token
from tests.unit.outlet_fakes import follow
store, folder, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if when == "before the rename":
    Path.rename = die
else:
    Outbox.move = die
follow(ParquetOutlet("files", folder, token(store), Pace(3, 10**9)), store)
"""


@pytest.mark.parametrize("when", ["before the rename", "before the place is kept"])
def test_a_kill_leaves_no_half_file_and_no_decision_twice(path: Path, folder: Path, when: str) -> None:
    filled(path, 7)
    done = subprocess.run([sys.executable, "-c", KILLED, path, folder, when], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [name.startswith(".") for name in names(folder)] == [when == "before the rename"]
    follow(to(folder, path), path)
    assert not [name for name in names(folder) if name.startswith(".")]
    assert numbers(folder) == [1, 2, 3, 4, 5, 6, 7]


def test_two_stores_share_a_folder(path: Path, folder: Path) -> None:
    other = path.with_name("other.db")
    filled(path, 2)
    filled(other, 3)
    follow(to(folder, path), path)
    follow(to(folder, other), other)
    assert sorted(numbers(folder)) == [1, 1, 2, 2, 3]


def test_an_older_copy_of_the_store_is_told_and_writes_nothing(path: Path, folder: Path) -> None:
    chains = filled(path, 2)
    copy = path.read_bytes()
    with closing(SqliteStore(path)) as store:
        store.write(Batch([chains.add("p-01", 50)]), 1)
    follow(to(folder, path), path)
    before = names(folder)
    for aside in path.parent.glob("t.db-*"):
        aside.unlink()
    path.write_bytes(copy)
    _, heard = follow(to(folder, path), path, limit_s=0.1)
    assert "is an older copy" in heard.told[-1][4]
    assert names(folder) == before


def test_a_folder_that_cannot_be_written_is_a_reason_to_wait(path: Path, folder: Path) -> None:
    filled(path, 2)
    folder.mkdir()
    made = to(folder, path)
    folder.rmdir()
    folder.write_text("a file where the folder was")
    _, heard = follow(made, path, limit_s=0.1)
    assert "cannot be written" in heard.told[-1][4]
    folder.unlink()
    follow(made, path)
    assert numbers(folder) == [1, 2]


def test_the_settings_say_how_large_a_file_gets(tmp_path: Path) -> None:
    made = outlet(f"parquet:{tmp_path}/x", Settings(outlet_file_rows=5, outlet_file_bytes=6000, outlet_file_s=7), "t")
    assert made.pace == Pace(5, 6000, 7)


def test_standard_output_gets_the_lines_that_the_command_prints(path: Path) -> None:
    filled(path, 5, letters=1)
    out = BytesIO()
    follow(StdoutOutlet("stdout", False, out), path)
    assert [orjson.loads(line) for line in out.getvalue().splitlines()] == list(decisions(path))


def test_a_reader_that_went_away_is_a_reason_to_wait(path: Path) -> None:
    filled(path, 1)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as out:
        _, heard = follow(StdoutOutlet("stdout", False, out), path, QUICK, limit_s=0.1)
    assert "start again with a reader" in heard.told[-1][4]
    assert outlets(path)[0].behind == 1
    with pytest.raises(OutletDown):
        StdoutOutlet("stdout", False, out).send([])
