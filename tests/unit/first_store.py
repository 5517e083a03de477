"""A store as the first version made it."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

FIRST = """
PRAGMA journal_mode = WAL;
CREATE TABLE decisions (n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL, revision INTEGER NOT NULL, flow TEXT NOT NULL, key TEXT NOT NULL, start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL, seq INTEGER NOT NULL, action TEXT NOT NULL, record TEXT NOT NULL, hash TEXT NOT NULL,
    prev TEXT NOT NULL, latency_us INTEGER, written_us INTEGER NOT NULL, UNIQUE (id, revision)) STRICT;
CREATE UNIQUE INDEX decisions_chain ON decisions (flow, key, seq);
CREATE INDEX decisions_order ON decisions (end_us, key, revision, flow);
CREATE TABLE superseded (n INTEGER PRIMARY KEY,
    id TEXT NOT NULL, revision INTEGER NOT NULL, flow TEXT NOT NULL, key TEXT NOT NULL, start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL, seq INTEGER NOT NULL, action TEXT NOT NULL, record TEXT NOT NULL, hash TEXT NOT NULL,
    prev TEXT NOT NULL, latency_us INTEGER, written_us INTEGER NOT NULL, superseded_us INTEGER NOT NULL) STRICT;
CREATE INDEX superseded_chain ON superseded (flow, key, seq);
CREATE INDEX superseded_id ON superseded (id);
CREATE TABLE dead_letters (
    source TEXT NOT NULL, offset INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, raw BLOB NOT NULL,
    stream TEXT NOT NULL, flow TEXT NOT NULL, written_us INTEGER NOT NULL, replayed_us INTEGER,
    PRIMARY KEY (source, offset, reason)) STRICT;
CREATE TABLE alerts (
    flow TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, action TEXT NOT NULL, at_us INTEGER NOT NULL,
    decision_id TEXT NOT NULL, PRIMARY KEY (flow, key, at_us, kind, action)) STRICT;
CREATE TABLE human_actions (
    n INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, decision_id TEXT NOT NULL, decision_hash TEXT NOT NULL,
    verb TEXT NOT NULL CHECK (verb IN ('accept', 'override')), proposal TEXT, action TEXT, "by" TEXT NOT NULL,
    reason TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
CREATE TABLE checkpoints (
    n INTEGER NOT NULL, flow TEXT NOT NULL, prev TEXT NOT NULL, heads TEXT NOT NULL, total INTEGER NOT NULL,
    superseded INTEGER NOT NULL, human_n INTEGER NOT NULL, human_hash TEXT NOT NULL, hash TEXT NOT NULL,
    written_us INTEGER NOT NULL,
    PRIMARY KEY (flow, n)) STRICT;
PRAGMA application_id = 0x54444754;
PRAGMA user_version = 1;
"""
LETTER = """INSERT INTO dead_letters (flow, stream, source, offset, reason, detail, raw, written_us)
    VALUES (?, ?, ?, ?, ?, ?, ?, 1)"""


def first_store(path: Path, letters: Iterable[tuple[str, str, str, int, str, str, bytes]]) -> None:
    """Make one at `path`. letters: flow, stream, source, offset, reason, detail, raw."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIRST)
        db.executemany(LETTER, letters)
        db.commit()
