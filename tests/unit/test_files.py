"""Replay files: the same rows whatever the kind of file, the size of a call, or the row at which reading resumes."""

import csv
import gzip
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.connectors import files
from flows.connectors.files import HeldLines, find, open_rows, sources
from flows.connectors.judge import decode
from operators.columnar.codec import Codec
from schemas.errors import SourceLost, UsageError
from schemas.ward import NOTES


def read(path: Path, size: int = 3, skip: int = 0) -> list[Any]:
    """All rows of a file, read `size` at a time: lines, or tuples of cells."""
    rows: list[Any] = []
    with closing(open_rows(path)) as reader:
        reader.skip(skip)
        while (part := reader.next(size)) is not None:
            assert 0 < len(part) <= size
            rows += part.lines if part.cells is None else part.cells.rows()
    return rows


def text_file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["vitals.jsonl", "vitals.ndjson.gz"])
def test_lines_end_in_any_way_and_blank_ones_are_no_rows(tmp_path: Path, name: str) -> None:
    path = text_file(tmp_path, name, b"\xef\xbb\xbf{1}\r\n\n{2}\n  \n{3}\n\r\n{4}")
    assert read(path) == [b"{1}", b"{2}", b"{3}", b"{4}"]
    assert read(path, skip=2) == [b"{3}", b"{4}"]
    assert read(path, skip=9) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(st.sampled_from([b"a", b"bb" * 9, b"\n", b"\r\n", b" ", b"c"]), max_size=40).map(b"".join),
    block=st.integers(1, 30),
    size=st.integers(1, 5),
    skip=st.integers(0, 6),
)
def test_blocks_and_calls_of_any_size_give_the_lines_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, block: int, size: int, skip: int
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", block)
    path = text_file(tmp_path, "x.jsonl", content)
    want = [line.removesuffix(b"\r") for line in content.split(b"\n") if line.strip()]
    assert read(path, size, skip) == want[skip:]


def test_a_line_without_end_is_cut_and_the_file_is_never_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 64)
    monkeypatch.setattr(files, "ROW_BYTES_MAX", 100)
    path = text_file(tmp_path, "x.jsonl", b"{1}\n" + b"x" * 5000 + b"\n{2}\n" + b"y" * 150)
    assert read(path) == [b"{1}", b"x" * 101, b"{2}", b"y" * 101]


CELLS = st.text(st.sampled_from('ab,"\n é'), min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12), size=st.integers(1, 5), quoting=st.sampled_from([0, 1])
)
def test_a_csv_file_gives_back_what_was_written(
    tmp_path: Path, rows: list[tuple[str, str, str]], size: int, quoting: int
) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL, lineterminator="\n").writerows(
        [("ts", "patient", "note"), *rows]
    )
    path = text_file(tmp_path, "notes.csv.gz", text.getvalue().encode())
    assert [row[:3] for row in read(path, size)] == rows
    assert [row[:3] for row in read(path, size, skip=2)] == rows[2:]


def test_a_csv_row_that_is_none_of_its_header_costs_itself(tmp_path: Path) -> None:
    rows = (b'TS,p,"a ""good"" one"', b"1,2,3,4", b"TS,p", b'TS,p,5" nail', b"TS,p,\xff", b"TS,q,fine", b"")
    content = b"\n".join((b"ts,patient,note", *rows)).replace(b"TS", b"1700000000000")
    with closing(open_rows(text_file(tmp_path, "notes.csv", content))) as reader:
        chunk = reader.next(100)
    assert chunk is not None
    decoded = decode(Codec(NOTES, ts_unit="ms", line_bytes_max=4096), chunk, 0)
    assert decoded.rows["note"].to_list() == ['a "good" one', '5" nail', "fine"]
    assert decoded.rejects.select("offset", "reason").rows() == [(1, "not_json"), (2, "missing_field"), (4, "not_json")]
    assert decoded.rejects["raw"].to_list() == [rows[1], b"1700000000000,p", b"1700000000000,p,\xff"]


@pytest.mark.parametrize("name", ["notes.csv", "notes.csv.gz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_csv_row_keeps_the_bytes_of_its_record_and_the_header_reads_them_again(
    tmp_path: Path, name: str, end: bytes
) -> None:
    header = b'"ts",patient,"no' + end + b'te"'
    rows = [
        b"1,p,plain",
        b'2,p,"two' + end + b" " + end + end + b'""lines"""',
        b"3,p,\xff",
        b'4,p,"' + end + b'"',
        b'5,"never closed',
        b"6,p,\xc3\xa9",
    ]
    content = b"\xef\xbb\xbf" + end + end.join((header, *rows[:3], b" ", *rows[3:]))
    with closing(open_rows(text_file(tmp_path, name, content))) as reader:
        chunk = reader.next(100)
        assert reader.header == header
    assert chunk is not None
    assert chunk.cells is not None
    assert [chunk.raw(row) for row in range(len(chunk))] == rows
    assert chunk.cells["no\nte"].to_list() == ["plain", 'two\n \n\n"lines"', None, "\n", None, "é"]
    for size in (1, 6):
        held, cells = HeldLines(rows, 0, header), []
        while (again := held.next(size)) is not None:
            assert again.cells is not None
            cells += again.cells.select(chunk.cells.columns[:3]).rows()
        assert cells == [row[:3] for row in chunk.cells.rows()]


def test_a_quote_that_never_closes_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = text_file(tmp_path, "notes.csv", b'ts,patient,note\n1,p,"open\n2,p,b\n3,p,c\n')
    assert [row[:3] for row in read(path, 100)] == [(None, None, None), ("2", "p", "b"), ("3", "p", "c")]


@pytest.mark.parametrize("name", ["vitals.parquet", "vitals.arrow"])
def test_tables_come_with_their_types_and_resume_at_any_row(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_ROWS", 4)
    frame = pl.DataFrame({"ts": range(10), "hr": [60.5] * 10})
    path = tmp_path / name
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ipc(path)
    assert read(path) == frame.rows()
    assert read(path, skip=5) == frame.rows()[5:]
    reader = open_rows(path)
    reader.next(2)
    reader.skip(3)
    rest = reader.next(100)
    assert rest is not None
    assert [rest.raw(row) for row in (0, 4)] == [b'{"ts":5,"hr":60.5}', b'{"ts":9,"hr":60.5}']
    assert reader.header is None


def test_one_file_for_each_stream_is_found_and_two_are_refused(tmp_path: Path) -> None:
    assert find(tmp_path, "vitals") is None
    first = text_file(tmp_path, "vitals.csv.gz", b"ts\n")
    assert find(tmp_path, "vitals") == first
    assert sources(tmp_path, {"vitals": None, "notes": None}) == {"vitals": first}
    assert sources(tmp_path, {"vitals": "vitals.csv.gz"}) == {"vitals": first}
    text_file(tmp_path, "vitals.jsonl", b"")
    with pytest.raises(UsageError, match=r"vitals\.jsonl and vitals\.csv\.gz"):
        find(tmp_path, "vitals")


def test_a_folder_without_any_file_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        sources(tmp_path / "none", {"vitals": None})
    with pytest.raises(UsageError, match=r"has none of vitals\.jsonl"):
        sources(tmp_path, {"vitals": None})
    with pytest.raises(UsageError, match=r"none of archive\.csv"):
        sources(tmp_path, {"vitals": "archive.csv"})
    with pytest.raises(UsageError, match="is not a folder"):
        sources(text_file(tmp_path, "x.jsonl", b""), {"vitals": None})
    with pytest.raises(UsageError, match="no known kind"):
        open_rows(text_file(tmp_path, "vitals.xlsx", b""))


def test_a_csv_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        open_rows(text_file(tmp_path, "vitals.csv", b"ts,hr,hr\n"))


@pytest.mark.parametrize("name", ["vitals.jsonl.gz", "vitals.csv.gz", "vitals.parquet", "vitals.arrow", "vitals.jsonl"])
def test_a_file_that_breaks_off_is_a_lost_source_with_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(bytes(range(48, 90)) * 100)[:60] if name.endswith(".gz") else b"PAR1 is not all")
    if name == "vitals.jsonl":
        path.unlink()
    with pytest.raises(SourceLost, match=name):
        read(path)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read(text_file(tmp_path, "a.csv", b"")) == []
    assert read(text_file(tmp_path, "b.csv", b"ts,hr\n")) == []
    assert read(text_file(tmp_path, "c.jsonl.gz", b"")) == []
