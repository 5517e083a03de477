"""Rows of CSV that were set aside: kept byte for byte, and sent again after a fix."""

import gzip
import sqlite3
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate, records
from tests.unit.first_store import first_store

pytestmark = pytest.mark.flow
START = 1_772_438_400_000
HEADER = b"ts,patient,hr,seq"


def letters(db: Path) -> dict[int, tuple[str, bytes, bytes | None]]:
    with sqlite3.connect(db) as reader:
        rows = reader.execute("SELECT offset, reason, raw, header FROM dead_letters WHERE replayed_us IS NULL")
        return {offset: (reason, raw, header) for offset, reason, raw, header in rows}


@pytest.mark.parametrize("name", ["vitals.csv", "vitals.csv.gz"])
def test_rows_of_csv_keep_their_bytes_and_are_sent_again_after_a_fix(
    tidegate: Tidegate, tmp_path: Path, name: str
) -> None:
    db, source = tmp_path / "t.db", tmp_path / "src"
    rows = [b"%d,p-01,70,%d" % (START + 1000 * second, second) for second in range(120)]
    refused = {
        50: ("wrong_type", b'%d,"p-01","fa\r\nst",900' % START),
        60: ("future", b"%d,p-01,70,901" % (START + 86_400_000)),
        70: ("not_json", b"%d,p-01,70,902,a cell too many" % START),
        123: ("late", b"%d,p-01,70,903" % START),
    }
    for at, (_, row) in refused.items():
        rows.insert(at, row)
    for second in range(5):  # seconds, not ms
        rows.append(b"%d,p-01,71,%d" % (START // 1000 + 240 + second, 1000 + second))
    source.mkdir()
    content = b"\r\n".join((HEADER, *rows, b""))
    (source / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    config = tmp_path / "small.toml"
    config.write_text("batch_rows_max = 9\n")  # so that rows are held until a later batch judges them
    tidegate("run", "ward", "--source", source, "--sink", db, "--model", "none", "--config", config)
    before = records(tidegate, db)
    in_seconds = {at: ("bad_time", rows[at]) for at in range(124, 129)}
    assert letters(db) == {at: (reason, row, HEADER) for at, (reason, row) in (refused | in_seconds).items()}

    config.write_text('ts_unit = "s"\n')
    again = ["replay-dead-letters", "ward", "--db", db, "--model", "none"]
    done = tidegate(*again, "--reason", "bad_time", "--config", config)
    assert done.stdout.startswith("5 rows sent again, 1 decisions made from them; 0 rows stay refused")
    after = records(tidegate, db)
    assert after[: len(before)] == before
    assert [record["prev"] for record in after[len(before) :]] == [before[-1]["hash"]]
    assert tidegate(*again).stdout.startswith("1 rows sent again, 0 decisions made from them; 2 rows stay refused")
    assert set(letters(db)) == {50, 60, 70}
    tidegate("verify", "--db", db)


def test_rows_of_an_archive_are_sent_again_with_a_mapping_that_knows_their_names(
    tidegate: Tidegate, tmp_path: Path
) -> None:
    db, source, mapping = tmp_path / "t.db", tmp_path / "src", tmp_path / "own.toml"
    text = (
        '[streams.vitals]\nfile = "archive.csv"\ntime = "key"\ncolumns = { key = "subject" }\n[streams.vitals.names]\n'
    )
    mapping.write_text(text + 'rate = { field = "rr" }\n')
    source.mkdir()
    rows = [f"{START},p-01,rate,12", *(f"{START + 240_000 + 1000 * at},p-01,pulse,70" for at in range(30))]
    rows.append(f"{START + 10**12},p-02,pulse,71")  # decades later: nobody else's time
    (source / "archive.csv").write_text("\n".join(["ts,subject,name,value", *rows]))
    tidegate("run", "ward", "--source", source, "--sink", db, "--model", "none", "--mapping", mapping)
    header = b"ts,subject,name,value"
    assert letters(db) == {at: ("unknown_name", rows[at].encode(), header) for at in range(1, 32)}
    mapping.write_text(text + 'rate = { field = "rr" }\npulse = { field = "hr" }\n')
    done = tidegate("replay-dead-letters", "ward", "--db", db, "--model", "none", "--mapping", mapping)
    assert done.stdout.startswith("31 rows sent again, 2 decisions made from them; 0 rows stay refused")
    assert [record["key"] for record in records(tidegate, db)] == ["p-01", "p-01", "p-02"]
    assert not letters(db)


def test_rows_under_several_headers_and_of_an_older_store_are_sent_again_together(
    tidegate: Tidegate, tmp_path: Path
) -> None:
    db, older, config = tmp_path / "t.db", tmp_path / "older.db", tmp_path / "seconds.toml"
    config.write_text('ts_unit = "s"\n')
    at = START // 1000
    lines = [b'{"ts": %d, "patient": "p-01", "hr": 70}' % at, b'{"ts": %d, "patient"' % at]
    for path in (db, older):
        first_store(path, [("ward", "vitals", "older", at, "bad_time", "", raw) for at, raw in enumerate(lines)])
    files = {
        "vitals.csv": f"ts,patient,hr\n{at},p-01,71\n{at + 1},p-01,71\n{at + 2},p-01,71\n",
        "notes.csv": f'note,ts,patient\n"two\n\nlines",{at + 2},p-01\n',
    }
    for name, text in files.items():
        source = tmp_path / name.removesuffix(".csv")
        source.mkdir()
        (source / name).write_text(text)
        tidegate("run", "ward", "--source", source, "--sink", db, "--model", "none")
    again = ["replay-dead-letters", "ward", "--model", "none", "--config", config, "--db"]
    assert tidegate(*again, older).stdout.startswith("1 rows sent again, 1 decisions made from them; 1 rows stay")
    assert tidegate(*again, db).stdout.startswith("5 rows sent again, 1 decisions made from them; 1 rows stay")
    (record,) = records(tidegate, db)
    assert record["inputs"]["rows"] == 4
    assert record["inputs"]["offsets"] == {"again/vitals": [0, 0], "again/vitals.csv1": [0, 2]}
    assert [raw for _, raw, _ in letters(db).values()] == lines[1:]


def test_a_row_that_is_refused_again_waits_on_under_its_own_place_however_often_it_is_sent(
    tidegate: Tidegate, tmp_path: Path
) -> None:
    db, config = tmp_path / "t.db", tmp_path / "seconds.toml"
    config.write_text('ts_unit = "s"\nbatch_rows_max = 9\nfuture_lookahead_rows = 3\n')
    seconds = [*range(40), 86_400]  # the last one's clock ran ahead, which shows only once they are read
    row = b'{"ts": %d, "patient": "p-01", "hr": 70}'
    lines = [row % (START // 1000 + second) for second in seconds]
    first_store(db, [("ward", "vitals", "older", at, "bad_time", "", line) for at, line in enumerate(lines)])
    again = ["replay-dead-letters", "ward", "--model", "none", "--config", config, "--db", db]
    assert tidegate(*again).stdout.startswith("40 rows sent again, 1 decisions made from them; 1 rows stay refused")
    later = [row % (START // 1000 + second) for second in range(120, 160)]
    with sqlite3.connect(db) as writer:
        query = """INSERT INTO dead_letters (source, offset, reason, detail, raw, stream, flow, written_us, n)
            VALUES ('newer', ?, 'bad_time', '', ?, 'vitals', 'ward', 0, ?)"""
        writer.executemany(query, [(at, line, 100 + at) for at, line in enumerate(later)])
    assert tidegate(*again).stdout.startswith("40 rows sent again, 1 decisions made from them; 1 rows stay refused")
    with sqlite3.connect(db) as reader:
        found = reader.execute(
            "SELECT source, offset, reason, raw, replayed_us IS NULL FROM dead_letters ORDER BY source, offset"
        ).fetchall()
    expected = [("newer", at, "bad_time", line, 0) for at, line in enumerate(later)]
    assert found == expected + [("older", at, "bad_time", line, at == 40) for at, line in enumerate(lines)]
