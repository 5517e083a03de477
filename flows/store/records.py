"""Reading the decision store, while a flow may be writing it.

Readers take short transactions: one that stayed open would keep SQLite from folding the write-ahead log back.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import orjson

from flows.connectors.sqlite import DeadLetter, in_plain_words, open_existing, transaction
from schemas.decisions import Record

PAGE_ROWS = 500


def decisions(path: Path, flow: str | None = None, after_us: int | None = None) -> Iterator[Record]:
    """The records as stored, in order of window end, key, revision (then flow).

    flow: only this flow. after_us: only windows that end later. Errors: UsageError, before the first record.
    """
    return _decisions(path, open_existing(path, "ro"), flow, after_us)


def _decisions(path: Path, db: Connection, flow: str | None, after_us: int | None) -> Iterator[Record]:
    query = """SELECT end_us, key, revision, flow, record FROM decisions
        WHERE (end_us, key, revision, flow) > (?, ?, ?, ?) AND end_us > ? AND (? IS NULL OR flow = ?)
        ORDER BY end_us, key, revision, flow LIMIT ?"""
    start = -(2**63) if after_us is None else after_us
    place: tuple[Any, ...] = (start, "", -1, "")
    with in_plain_words(path), closing(db):
        while page := db.execute(query, (*place, start, flow, flow, PAGE_ROWS)).fetchall():
            for *_, text in page:
                yield orjson.loads(text)
            place = page[-1][:4]


def follow(
    path: Path,
    sleep: Callable[[float], None],
    flow: str | None = None,
    poll_s: float = 0.2,
    done: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """The records in the order in which they were written: those that are there, then each new one as it arrives.

    sleep: called with `poll_s` whenever nothing is new. done: once it says so, what is left is yielded, then it ends.
    A record that a restart replaced may be followed by its replacement. Errors: UsageError, before the first record.
    """
    return _follow(path, open_existing(path, "ro"), sleep, flow, poll_s, done)


def _follow(
    path: Path,
    db: Connection,
    sleep: Callable[[float], None],
    flow: str | None,
    poll_s: float,
    done: Callable[[], bool],
) -> Iterator[Record]:
    query = "SELECT n, record FROM decisions WHERE n > ? AND (? IS NULL OR flow = ?) ORDER BY n LIMIT ?"
    last = 0
    with in_plain_words(path), closing(db):
        while True:
            ending = done()  # asked before reading: what was written before it said so is still read
            while page := db.execute(query, (last, flow, flow, PAGE_ROWS)).fetchall():
                for _, text in page:
                    yield orjson.loads(text)
                last = page[-1][0]
            if ending:
                return
            sleep(poll_s)


def dead_letters(path: Path, reason: str | None = None, waiting: bool = False) -> Iterator[DeadLetter]:
    """Rows that were set aside, by source, offset, reason. waiting: only those not sent again.

    A store of an older Tidegate is brought to this version first. Errors: UsageError; SinkLost if it cannot be.
    """
    return _dead_letters(path, open_existing(path, "rw"), reason, waiting)


def _dead_letters(path: Path, db: Connection, reason: str | None, waiting: bool) -> Iterator[DeadLetter]:
    query = """SELECT flow, stream, source, offset, reason, detail, raw, header FROM dead_letters
        WHERE (source, offset, reason) > (?, ?, ?) AND (? IS NULL OR reason = ?) AND (NOT ? OR replayed_us IS NULL)
        ORDER BY source, offset, reason LIMIT ?"""
    place: tuple[Any, ...] = ("", -1, "")
    with in_plain_words(path), closing(db):
        while page := db.execute(query, (*place, reason, reason, waiting, PAGE_ROWS)).fetchall():
            yield from map(DeadLetter._make, page)
            place = page[-1][2:5]


def mark_replayed(path: Path, letters: Iterable[DeadLetter], at_us: int) -> None:
    """Note that these rows were sent again. Errors: UsageError; SinkLost when the file cannot be written."""
    places = [(at_us, letter.source, letter.offset, letter.reason) for letter in letters]
    with closing(open_existing(path, "rw")) as db, transaction(db, path):
        db.executemany("UPDATE dead_letters SET replayed_us = ? WHERE source = ? AND offset = ? AND reason = ?", places)
