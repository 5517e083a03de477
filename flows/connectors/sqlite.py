"""The decision store: one SQLite file. Its tables, how it is opened, and the writer.

Chains. The records of one (flow, key) are numbered by `seq` from 0 and linked by `prev`; every transaction that moves a
chain ends with one checkpoint for its flow, which hashes the heads that moved and the number of records in all chains,
so that a missing tail or key shows. `flows/store` reads all of it back.

Durability. WAL with synchronous=FULL: a committed batch survives a power cut. NORMAL would keep the file whole but
could lose the last batches, and the recovery store would then go on from records that this file no longer holds.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from schemas.decisions import GENESIS, Sealed, canonical, digest
from schemas.errors import SinkLost, UsageError

APPLICATION_ID = 0x54444754  # "TDGT", so that `file` and we tell our files from others
SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 5.0
# Records of many keys touch many index pages: room to keep them, and a log long enough to fold each back seldom.
_CACHE_KIB = 8_192
WAL_PAGES = 4_000

# Those of `Sealed`, then what stands beside a record.
_COLUMNS = """id, revision, flow, key, start_us, end_us, seq, action, record, hash, prev, latency_us, written_us"""
_TYPED = """
    id TEXT NOT NULL, revision INTEGER NOT NULL, flow TEXT NOT NULL, key TEXT NOT NULL, start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL, seq INTEGER NOT NULL, action TEXT NOT NULL, record TEXT NOT NULL, hash TEXT NOT NULL,
    prev TEXT NOT NULL, latency_us INTEGER, written_us INTEGER NOT NULL"""

# What outlets need: a number that rises with each letter written or changed (a rowid may change); their places; whose
# number is whose, where several stores send to one place; the trace of those decisions that are traced.
_LETTERS_ORDER = "CREATE UNIQUE INDEX dead_letters_order ON dead_letters (n)"
_OUTLETS = (
    """CREATE TABLE outlets (
    name TEXT PRIMARY KEY, dead_letters INTEGER NOT NULL, n INTEGER NOT NULL, letter_n INTEGER NOT NULL,
    sent INTEGER NOT NULL, failed INTEGER NOT NULL, why TEXT NOT NULL, at_us INTEGER NOT NULL) STRICT""",
    """CREATE TABLE refusals (
    outlet TEXT NOT NULL, kind TEXT NOT NULL, n INTEGER NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL,
    why TEXT NOT NULL, at_us INTEGER NOT NULL, PRIMARY KEY (outlet, kind, n)) STRICT""",
    "CREATE TABLE traces (hash TEXT PRIMARY KEY, traceparent TEXT NOT NULL) STRICT",
    "CREATE TABLE identity (token TEXT NOT NULL) STRICT",
    "INSERT INTO identity VALUES (lower(hex(randomblob(8))))",
)

SCHEMA = (
    # AUTOINCREMENT: no number is given twice, so whoever stands at n misses nothing when a branch is moved aside.
    f"CREATE TABLE decisions (n INTEGER PRIMARY KEY AUTOINCREMENT, {_TYPED}, UNIQUE (id, revision)) STRICT",
    "CREATE UNIQUE INDEX decisions_chain ON decisions (flow, key, seq)",
    "CREATE INDEX decisions_order ON decisions (end_us, key, revision, flow)",
    f"CREATE TABLE superseded (n INTEGER PRIMARY KEY, {_TYPED}, superseded_us INTEGER NOT NULL) STRICT",
    "CREATE INDEX superseded_chain ON superseded (flow, key, seq)",
    "CREATE INDEX superseded_id ON superseded (id)",
    """CREATE TABLE dead_letters (
    source TEXT NOT NULL, offset INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, raw BLOB NOT NULL,
    stream TEXT NOT NULL, flow TEXT NOT NULL, written_us INTEGER NOT NULL, replayed_us INTEGER,
    header BLOB, n INTEGER, PRIMARY KEY (source, offset, reason)) STRICT""",
    _LETTERS_ORDER,
    """CREATE TABLE alerts (
    flow TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, action TEXT NOT NULL, at_us INTEGER NOT NULL,
    decision_id TEXT NOT NULL, PRIMARY KEY (flow, key, at_us, kind, action)) STRICT""",
    """CREATE TABLE human_actions (
    n INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, decision_id TEXT NOT NULL, decision_hash TEXT NOT NULL,
    verb TEXT NOT NULL CHECK (verb IN ('accept', 'override')), proposal TEXT, action TEXT, "by" TEXT NOT NULL,
    reason TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL) STRICT""",
    """CREATE TABLE checkpoints (
    n INTEGER NOT NULL, flow TEXT NOT NULL, prev TEXT NOT NULL, heads TEXT NOT NULL, total INTEGER NOT NULL,
    superseded INTEGER NOT NULL, human_n INTEGER NOT NULL, human_hash TEXT NOT NULL, hash TEXT NOT NULL,
    written_us INTEGER NOT NULL,
    PRIMARY KEY (flow, n)) STRICT""",
    *_OUTLETS,
)

UPGRADES = {
    1: (
        "ALTER TABLE dead_letters ADD COLUMN header BLOB",
        "ALTER TABLE dead_letters ADD COLUMN n INTEGER",
        "UPDATE dead_letters SET n = rowid",
        _LETTERS_ORDER,
        *_OUTLETS,
    )
}
"""Version of a store -> what makes it the next."""

CHECKPOINT_COLUMNS = "flow, n, prev, heads, total, superseded, human_n, human_hash, hash"
ACTION_COLUMNS = 'n, at_us, decision_id, decision_hash, verb, proposal, action, "by", reason, prev, hash'

_INSERT = f"INSERT INTO decisions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STORED = "SELECT seq, hash FROM decisions WHERE flow = ? AND key = ? AND seq BETWEEN ? AND ?"
_BRANCH = "FROM decisions WHERE flow = ? AND key = ? AND seq >= ?"
_MOVE = f"INSERT INTO superseded ({_COLUMNS}, superseded_us) SELECT {_COLUMNS}, ? {_BRANCH} ORDER BY seq"
_LETTER = """INSERT INTO dead_letters (flow, stream, source, offset, reason, detail, raw, header, written_us, n)
    VALUES (?, ?, ?, ?, ?, coalesce(?, ''), coalesce(?, x''), ?, ?, (SELECT coalesce(max(n), 0) + 1 FROM dead_letters))
    ON CONFLICT (source, offset, reason) DO UPDATE SET detail = excluded.detail, raw = excluded.raw,
    header = excluded.header, stream = excluded.stream, flow = excluded.flow, written_us = excluded.written_us,
    replayed_us = NULL, n = excluded.n
    WHERE raw <> excluded.raw OR detail <> excluded.detail OR header IS NOT excluded.header"""
_ALERT = """INSERT INTO alerts (flow, key, kind, action, at_us, decision_id)
    VALUES (:flow, :key, :kind, :action, :at_us, :decision_id)
    ON CONFLICT (flow, key, at_us, kind, action) DO NOTHING"""
_TRACE = "INSERT INTO traces (hash, traceparent) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING"
_LAST_CHECKPOINT = "SELECT n, hash, total, superseded FROM checkpoints WHERE flow = ? ORDER BY n DESC LIMIT 1"
_LAST_ACTION = "SELECT n, hash FROM human_actions ORDER BY n DESC LIMIT 1"

_RESUME = "then start again with the same --recovery; nothing that was written is lost"
LOST = {
    sqlite3.SQLITE_FULL: f"the disk that holds {{path}} is full: free space, {_RESUME}",
    sqlite3.SQLITE_BUSY: f"{{path}} stayed locked by another program: end that program, {_RESUME}",
    sqlite3.SQLITE_LOCKED: f"{{path}} stayed locked by another program: end that program, {_RESUME}",
    sqlite3.SQLITE_READONLY: f"{{path}} may not be written any more: give back the right to write, {_RESUME}",
    sqlite3.SQLITE_IOERR: f"the disk that holds {{path}} is full or failing ({{name}}): see to the disk, {_RESUME}",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged ({name}): put back a copy, or take a new --sink and a new --recovery",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DeadLetter(NamedTuple):
    """A row that was set aside.

    source, offset: where it was read. raw: its bytes as they came; a row of Parquet or Arrow, and one that came after
    an idle timeout had closed its window, as JSON. header: what came with it: the record that names the columns of raw
    CSV, or the headers of a Kafka message as JSON; else None.
    """

    flow: str
    stream: str
    source: str
    offset: int
    reason: str
    detail: str
    raw: bytes
    header: bytes | None = None


Timed = tuple[Sealed, int | None]
"""A sealed record, and how long it took from its window's close in microseconds (wall clock, so beside the record)."""


@dataclass(slots=True)
class Batch:
    """What one transaction writes.

    alerts: flow, key, kind (which edge), action, at_us (event time), decision_id. traces: a record's hash, and its
    W3C traceparent.
    """

    records: list[Timed] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    alerts: list[Mapping[str, Any]] = field(default_factory=list)
    traces: list[tuple[str, str]] = field(default_factory=list)


def instant_us(text: str) -> int:
    """RFC 3339 with zone -> microseconds since the epoch. Errors: ValueError or TypeError when it is not that."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def row_hash(row: Sequence[Any]) -> str:
    """Hash of a checkpoint (`CHECKPOINT_COLUMNS`) or of a human action (`ACTION_COLUMNS`), each without its hash."""
    return digest(list(row))


def last_action(db: sqlite3.Connection) -> tuple[int, str]:
    """Number and hash of the last human action."""
    return db.execute(_LAST_ACTION).fetchone() or (0, GENESIS)


def connect(path: Path, mode: Literal["ro", "rw", "rwc"], busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """A connection in autocommit mode. Errors: UsageError when there is no file, or none that SQLite can open."""
    if mode != "rwc" and not path.exists():
        raise UsageError(f"there is no database {path}: check the path, or run a flow with --sink {path} first")
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    folder = path.absolute().parent
    if mode == "ro" and not os.access(folder, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        uri += "&immutable=1"  # a copy on a disk that may only be read: SQLite cannot make its WAL files there
    try:
        return sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None)
    except sqlite3.Error as error:
        why = "check that its folder exists and that you may use it"
        raise UsageError(f"the database {path} cannot be opened ({error}): {why}") from error


def open_existing(path: Path, mode: Literal["ro", "rw"], busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Open a store that a flow has made; to write, one of an older Tidegate is brought to this version.

    Errors: UsageError when it is missing, not ours, or of a newer Tidegate; SinkLost when it cannot be brought there.
    """
    db = connect(path, mode, busy_timeout_s)
    try:
        version = _version(db, path)
        if version is None:
            raise UsageError(f"{path} is empty, not a Tidegate database: check the path")
        if mode == "rw" and version < SCHEMA_VERSION:
            _upgrade(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int | None:
    """The store's schema, None for a blank file. Errors: UsageError for another program's or a newer Tidegate's."""
    try:
        db.execute("BEGIN")  # one snapshot: a writer may be making the tables just now
        (application,) = db.execute("PRAGMA application_id").fetchone()
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        blank = application == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        db.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        why = "check that it is the right file, and that you may use it and its folder"
        raise UsageError(f"{path} cannot be read as a database ({error}): {why}") from error
    if blank:
        return None
    if application != APPLICATION_ID:
        raise UsageError(f"{path} is a database of another program: choose another file")
    if version > SCHEMA_VERSION:
        message = f"{path} was written by a newer Tidegate (schema {version}, this one knows {SCHEMA_VERSION})"
        raise UsageError(f"{message}: use that version, or another file")
    return version


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    with transaction(db, path):
        (version,) = db.execute("PRAGMA user_version").fetchone()  # another program may have been faster
        for older in range(version, SCHEMA_VERSION):
            for statement in UPGRADES[older]:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Only one of us makes a file in `folder` at a time: SQLite does not wait where a new file is switched to WAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def transaction(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing, holding the one write lock from the start. Errors: SinkLost when the file cannot be written."""
    with in_plain_words(path):
        try:
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite ends it by itself after some failures
                db.execute("ROLLBACK")
            raise


@contextmanager
def in_plain_words(path: Path) -> Iterator[None]:
    """Tell a lost file as SinkLost; an error that no disk or other program can cause is ours, and stays what it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        message = LOST.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the low byte says which kind
        if message is None:
            raise
        raise SinkLost(message.format(path=path, name=error.sqlite_errorname)) from error


def append_checkpoint(
    db: sqlite3.Connection, flow: str, heads: dict[str, Any], added: int, moved: int, written_us: int
) -> None:
    """Add a checkpoint, inside the caller's transaction. heads: that changed; added, moved: records new, set aside."""
    n, prev, total, superseded = db.execute(_LAST_CHECKPOINT, (flow,)).fetchone() or (-1, GENESIS, 0, 0)
    counts = (total + added - moved, superseded + moved)
    row = (flow, n + 1, prev, canonical(heads).decode(), *counts, *last_action(db))
    db.execute(
        f"INSERT INTO checkpoints ({CHECKPOINT_COLUMNS}, written_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, row_hash(row), written_us),
    )


class SqliteStore:
    """The writer. One for each thread that writes; several may share a file."""

    def __init__(self, path: Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Open or create `path`, or bring it to this version.

        Errors: UsageError when it cannot be opened or is not ours; SinkLost when it is locked.
        """
        self._path = path
        self._db = connect(path, "rwc", busy_timeout_s)
        try:
            with _alone_in(path.absolute().parent):
                version = _version(self._db, path)
                if version is None:
                    self._create()
                elif version < SCHEMA_VERSION:
                    _upgrade(self._db, path)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            self._file = self._identity()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Fold the WAL into the file, if no one else has it open."""
        self._db.close()

    def heads(self, flow: str) -> dict[str, tuple[int, str]]:
        """The last (seq, hash) of each key's chain."""
        rows = self._db.execute("SELECT key, max(seq), hash FROM decisions WHERE flow = ? GROUP BY key", (flow,))
        return {key: (seq, hash_) for key, seq, hash_ in rows}

    def write(self, batch: Batch, written_us: int) -> None:
        """Write all of `batch` or none of it; what is stored already stays as it is.

        Errors: SinkLost when the file cannot be written; UsageError when the chains do not go on from what is stored.
        """
        if self._identity() != self._file:
            raise SinkLost(f"{self._path} was removed or replaced while it was in use: put it back, {_RESUME}")
        records = sorted(batch.records, key=_place)
        with transaction(self._db, self._path):
            for flow, of_flow in groupby(records, key=lambda timed: timed[0].flow):
                self._write_flow(flow, list(of_flow), written_us)
            self._db.executemany(_LETTER, [(*letter, written_us) for letter in batch.dead_letters])
            self._db.executemany(_ALERT, batch.alerts)
            self._db.executemany(_TRACE, batch.traces)

    def _write_flow(self, flow: str, records: list[Timed], written_us: int) -> None:
        fresh: list[Timed] = []
        heads: dict[str, Any] = {}
        moved = 0
        for key, of_key in groupby(records, key=lambda timed: timed[0].key):
            new, abandoned = self._graft(flow, key, list(of_key), written_us)
            if new:
                heads[key] = [new[-1][0].seq, new[-1][0].hash]
                fresh += new
                moved += abandoned
        if not fresh:
            return
        try:
            self._db.executemany(_INSERT, [(*record, latency_us, written_us) for record, latency_us in fresh])
        except sqlite3.IntegrityError as error:
            raise self._mismatch(f"a decision of the flow {flow} is offered a second time") from error
        append_checkpoint(self._db, flow, heads, len(fresh), moved, written_us)

    def _graft(self, flow: str, key: str, records: list[Timed], written_us: int) -> tuple[list[Timed], int]:
        """The records that are not stored yet, and how many of an abandoned branch were moved to make room for them."""
        first, last = records[0][0].seq, records[-1][0].seq
        stored: dict[int, str] = dict(self._db.execute(_STORED, (flow, key, first - 1, last)).fetchall())
        seq, prev = first - 1, stored.get(first - 1, GENESIS if first == 0 else None)
        for record, _ in records:
            if (record.seq, record.prev) != (seq + 1, prev):
                raise self._mismatch(f"record {record.seq} of {key} does not follow a record that is stored")
            seq, prev = record.seq, record.hash
        same = 0
        while same < len(records) and stored.get(first + same) == records[same][0].hash:
            same += 1
        if same == len(records) or first + same not in stored:
            return records[same:], 0
        branch = (flow, key, first + same)
        self._db.execute(_MOVE, (written_us, *branch))
        return records[same:], self._db.execute(f"DELETE {_BRANCH}", branch).rowcount

    def _mismatch(self, what: str) -> UsageError:
        pair = "put back the one that is missing, or start with a new --sink and a new --recovery"
        return UsageError(f"{self._path} and the recovery folder do not belong together ({what}): {pair}")

    def _create(self) -> None:
        with in_plain_words(self._path):
            self._db.execute("PRAGMA journal_mode = WAL")
        with transaction(self._db, self._path):
            for statement in SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _identity(self) -> tuple[int, int] | None:
        """Which file the path names now: SQLite would go on writing into a file that was deleted."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


def _place(timed: Timed) -> tuple[str, str, int]:
    record = timed[0]
    return record.flow, record.key, record.seq
