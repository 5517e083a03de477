"""Replay files: bounded readers that hand out rows in order and can start at any row.

    vitals.jsonl  vitals.ndjson  vitals.csv  (each also .gz)      vitals.parquet  vitals.arrow

A reader holds one block and the rows of one call, never the file. Lines end in \\n or \\r\\n, the last one may end in
nothing, blank lines are no rows, a UTF-8 mark at the start is skipped. What a line says is the codec's affair.

A row that is set aside keeps its bytes as they stand in the file, without the line end after it. A row of CSV is read
only with the header, which is kept beside it. A row of Parquet or Arrow has no bytes of its own: it is kept as JSON.
"""

import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

import orjson
import polars as pl

from operators.columnar.cells import BROKEN
from schemas.errors import SourceLost, UsageError

LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow")
SUFFIXES = (*(kind + packed for kind in (*LINES, ".csv") for packed in ("", ".gz")), *TABLES)
BLOCK_BYTES = 1 << 16  # as lines of their own they take twice that, and at a ward's pace for minutes
BLOCK_ROWS = 20_000
ROW_BYTES_MAX = 1 << 20
"""A longer line is handed on cut to this length plus one byte, which the codec's own limit then refuses."""

_CELL = rb'(?:"(?:[^"]|"")*+"[^,]*+|[^",][^,]*+)?+'
_OPEN_CELL = re.compile(rb"(?:" + _CELL + rb',)*+"(?:[^"]|"")*+$')
"""Matches a CSV record that ends inside a quoted cell; a quote in the middle of a cell opens none."""
_UNREADABLE = (OSError, EOFError, zlib.error, pl.exceptions.PolarsError)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows in order. lines: their bytes without line ends, none of a table; cells: the same rows, none of JSON."""

    lines: Sequence[bytes]
    cells: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.lines) if self.cells is None else self.cells.height

    def raw(self, row: int) -> bytes:
        """What is kept of a row that is set aside: its bytes; of a table a JSON object, empty cells left out."""
        if self.lines or self.cells is None:
            return self.lines[row]
        cells = self.cells.row(row, named=True).items()
        return orjson.dumps({name: cell for name, cell in cells if cell is not None}, default=str)


NOTHING = Chunk(())


class Rows(Protocol):
    """A source of rows, in order."""

    @property
    def header(self) -> bytes | None:
        """The record that names the columns of its lines; None of what is no CSV."""

    def next(self, max_rows: int) -> Chunk | None:
        """At most `max_rows` rows, None where there is none. Errors: SourceLost."""

    def close(self) -> None:
        """Let go of what is held open."""


class FileRows(Rows, Protocol):
    """Rows of a file."""

    def skip(self, rows: int) -> None:
        """Pass over rows that were read in an earlier run. Errors: SourceLost."""


def find(folder: Path, stem: str) -> Path | None:
    """The file of a stream in a source folder, or None. Errors: UsageError if two files claim the stream."""
    found = [path for suffix in SUFFIXES if (path := folder / (stem + suffix)).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UsageError(f"{folder} holds {names}, both for the stream {stem}: keep one")
    return found[0] if found else None


def sources(folder: Path, streams: Mapping[str, str | None]) -> dict[str, Path]:
    """Files of a source folder: stream -> path. streams: stream -> the file's name (from a mapping), or None.

    Each is optional, all together are not. Errors: UsageError.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the source {folder} {problem}: give a folder with {_wanted(streams)}")
    found: dict[str, Path] = {}
    for stream, name in streams.items():
        path = find(folder, stream) if name is None else folder / name
        if path is not None and path.is_file():
            found[stream] = path
    if not found:
        raise UsageError(
            f"the source folder {folder} has none of {_wanted(streams)}: add one, or name another folder or mapping"
        )
    return found


def _wanted(streams: Mapping[str, str | None]) -> str:
    return ", ".join(name or f"{stream}.jsonl|.csv|.parquet" for stream, name in streams.items())


def open_rows(path: Path) -> FileRows:
    """A reader at row 0. Errors: UsageError for a kind of file that is not known, SourceLost if it cannot be read."""
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if kind not in SUFFIXES:
        raise UsageError(f"{path} is of no known kind: use one of {' '.join(SUFFIXES)}")
    if kind in TABLES:
        return _TableRows(path)
    return _CsvRows(path) if kind.startswith(".csv") else _LineRows(path)


def _lost(path: Path, error: BaseException) -> SourceLost:
    return SourceLost(
        f"{path} cannot be read ({error or type(error).__name__}): check that the file is whole and readable"
    )


class _Text:
    """A text file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            plain = path.open("rb")
        except OSError as error:
            raise _lost(path, error) from error
        self._file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=plain) if path.suffix == ".gz" else plain
        self._plain = plain

    def close(self) -> None:
        self._file.close()
        self._plain.close()

    def _blocks(self) -> Iterator[bytes]:
        try:
            block = self._file.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
            while block:
                yield block
                block = self._file.read(BLOCK_BYTES)
        except _UNREADABLE as error:
            self.close()
            raise _lost(self._path, error) from error

    def lines(self) -> Iterator[bytes]:
        """All lines, split at \\n: blank ones too, and with a \\r at the end where the file has it."""
        rest = b""
        for block in self._blocks():
            *lines, tail = block.split(b"\n")
            if lines:
                lines[0] = (rest + lines[0])[: ROW_BYTES_MAX + 1]
                rest = tail
                yield from lines
            else:
                rest = (rest + tail)[: ROW_BYTES_MAX + 1]  # the head of a line without end is kept, the rest passes by
        if rest:
            yield rest


class _LineRows:
    """Rows of JSON lines."""

    header: bytes | None = None

    def __init__(self, path: Path) -> None:
        self._text = _Text(path)
        self._lines = _rows(self._text.lines())

    def next(self, max_rows: int) -> Chunk | None:
        lines = list(islice(self._lines, max_rows))
        return Chunk(lines) if lines else None

    def skip(self, rows: int) -> None:
        deque(islice(self._lines, rows), maxlen=0)

    def close(self) -> None:
        self._text.close()


class _CsvRows:
    """Rows of a CSV file (RFC 4180, comma, header) as cells of text; quoted cells may hold line breaks."""

    def __init__(self, path: Path) -> None:
        self._text = _Text(path)
        self._records = self._read()
        self.header: bytes | None = next(self._records, b"")
        try:
            self._cells = _CsvCells(self.header)
        except (UnicodeDecodeError, csv.Error) as error:
            self.close()
            raise _lost(path, error) from error
        if len(set(self._cells.names)) < len(self._cells.names):
            self.close()
            raise UsageError(f"the header of {path} names a column twice: rename one")

    def next(self, max_rows: int) -> Chunk | None:
        records = list(islice(self._records, max_rows))
        return Chunk(records, self._cells.of(records)) if records else None

    def skip(self, rows: int) -> None:
        deque(islice(self._records, rows), maxlen=0)

    def close(self) -> None:
        self._text.close()

    def _read(self) -> Iterator[bytes]:
        """Records: lines joined while a quoted cell is open; if it never closes, its lines stand alone."""
        parts: list[bytes] = []
        size = 0
        for line in self._text.lines():
            if not parts:
                if b'"' not in line:
                    if line and not line.isspace():
                        yield line.removesuffix(b"\r")
                    continue
                size = 0
            size += len(line) + 1
            parts.append(line)
            ends_open = b'"' not in line or _OPEN_CELL.match(b'"' + line if len(parts) > 1 else line)
            if not ends_open:
                yield b"\n".join(parts).removesuffix(b"\r")
                parts = []
            elif size > ROW_BYTES_MAX:
                yield from _rows(parts)
                parts = []
        yield from _rows(parts)


def _rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are rows: without the \\r of their end, none that is blank."""
    return (row for line in lines if (row := line.removesuffix(b"\r")) and not row.isspace())


class _CsvCells:
    """Records of CSV as cells, by the names in their header. Errors: UnicodeDecodeError, csv.Error."""

    def __init__(self, header: bytes) -> None:
        text = header.decode("utf-8").replace("\r\n", "\n")  # names and cells are the same however lines end
        self.names: list[str] = next(csv.reader(io.StringIO(text)), [])
        self._schema = pl.Schema(dict.fromkeys(self.names, pl.String()))

    def of(self, records: Sequence[bytes]) -> pl.DataFrame:
        """One row per record: at the parser's speed, or one by one if there are quotes or it fails."""
        buffer = b"\n".join(records)
        if b'"' not in buffer:
            try:
                frame = pl.read_csv(buffer, has_header=False, schema=self._schema)
            except pl.exceptions.PolarsError:
                frame = None
            if frame is not None and frame.height == len(records):
                return frame
        rows = [self._row(record) for record in records]
        return pl.DataFrame(rows, schema={**self._schema, BROKEN: pl.Boolean()}, orient="row")

    def _row(self, record: bytes) -> list[str | bool | None]:
        """Cells of one record, and in the last place whether it is none of this header."""
        width = len(self.names)
        text = record.decode("utf-8", "replace").replace("\r\n", "\n")
        try:
            (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
        except (csv.Error, ValueError):
            return [*([None] * width), True]
        if len(cells) > width or "\ufffd" in text:
            return [*([None] * width), True]
        return [*(cell or None for cell in cells), *([None] * (width - len(cells))), None]


class _TableRows:
    """Rows of a Parquet or Arrow file as typed cells."""

    header: bytes | None = None

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._scan = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_ipc(path)
        self._block = pl.DataFrame()

    def next(self, max_rows: int) -> Chunk | None:
        if self._block.is_empty():
            self._block = self._load(max(max_rows, BLOCK_ROWS))
        rows, self._block = self._block[:max_rows], self._block[max_rows:]
        return None if rows.is_empty() else Chunk((), rows)

    def skip(self, rows: int) -> None:
        held = min(rows, self._block.height)
        self._block = self._block[held:]
        self._at += rows - held

    def close(self) -> None:
        self._block = self._block.clear()

    def _load(self, rows: int) -> pl.DataFrame:
        try:
            block = self._scan.slice(self._at, rows).collect()
        except _UNREADABLE as error:
            raise _lost(self._path, error) from error
        self._at += block.height
        return block


class FollowedLines:
    """The lines of a plain text file that grows, or is yet to come; a line counts once its end is there."""

    header: bytes | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def next(self, max_rows: int) -> Chunk | None:
        """Lines that are there now, None where none is. Errors: SourceLost."""
        try:
            if self._file is None and self._path.exists():
                self._file = self._path.open("rb")
            lines: list[bytes] = []
            while self._file is not None and len(lines) < max_rows:
                piece = self._file.readline()
                if not piece.endswith(b"\n"):
                    self._rest += piece
                    break
                line, self._rest = (self._rest + piece).rstrip(b"\r\n"), b""
                if line.strip():
                    lines.append(line)
        except OSError as error:
            raise _lost(self._path, error) from error
        return Chunk(lines) if lines else None

    def skip(self, rows: int) -> None:
        """Leave out rows that were read before."""
        while rows > 0 and (chunk := self.next(min(rows, 10_000))) is not None:
            rows -= len(chunk)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


class HeldLines:
    """Lines in memory, from the one at `offset` on, as if they stood in a file: of CSV where they have a header."""

    def __init__(self, lines: Sequence[bytes], offset: int, header: bytes | None = None) -> None:
        self._lines, self._at, self.header = lines, offset, header
        self._cells = None if header is None else _CsvCells(header)

    def next(self, max_rows: int) -> Chunk | None:
        """The next lines, None at the end."""
        lines = self._lines[self._at : self._at + max_rows]
        self._at += len(lines)
        return Chunk(lines, None if self._cells is None else self._cells.of(lines)) if lines else None

    def close(self) -> None:
        """Nothing is held open."""
