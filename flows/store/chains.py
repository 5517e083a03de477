"""Proof that a decision store is whole: every record, every link, every checkpoint.

What the file alone cannot show: the newest records cut off together with the checkpoints that name them. Whoever
needs that too keeps a copy, or notes the last checkpoint, elsewhere. Wall-clock columns, alerts and dead letters are
in no chain.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from flows.connectors.sqlite import ACTION_COLUMNS, CHECKPOINT_COLUMNS, instant_us, open_existing, row_hash
from schemas.decisions import GENESIS
from schemas.errors import TidegateError

Row = tuple[Any, ...]
Chain = tuple[str, str]
"""A flow and a key."""
Head = tuple[int, str]
"""Position and hash of the last record of a chain."""

_NAMES = ("flow", "key", "seq", "id", "revision", "start_us", "end_us", "action", "hash", "prev")
_RECORD = f"{', '.join(_NAMES)}, CAST(record AS BLOB)"


class Broken(TidegateError):
    """The first thing that does not hold. table: where; id, key, seq: which record, as far as known; why: in words."""

    def __init__(self, table: str, id: str | None, key: str | None, seq: int | None, why: str) -> None:
        self.table, self.id, self.key, self.seq, self.why = table, id, key, seq, why
        place = [f"{name} {value}" for name, value in (("key", key), ("seq", seq), ("id", id)) if value is not None]
        super().__init__(f"{', '.join([table, *place])}: {why}")


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked and holds."""

    records: int
    keys: int
    checkpoints: int
    human_actions: int
    superseded: int


@dataclass(slots=True)
class _Ledger:
    """The checkpoints, folded: what they say of chain ends, moved records, human actions; the first that is broken."""

    heads: dict[Chain, Head] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    actions: dict[int, str] = field(default_factory=dict)
    count: int = 0
    broken: Broken | None = None


def verify(path: Path) -> Verified:
    """Check the whole file as it is at this moment; a flow may go on writing. Memory grows with keys, not records.

    Order: records by (flow, key, seq), then checkpoints, human actions, superseded records, the file itself. What is
    missing at the end of a chain is known from the checkpoints alone: where they are broken, only that is told.
    Errors: Broken names the first that does not hold; UsageError when the file is missing or not ours.
    """
    with closing(open_existing(path, "ro")) as db:
        db.text_factory = _text
        try:
            db.execute("BEGIN")  # one snapshot for all of it
            ledger = _fold(db)
            records, keys, uncovered = _walk(db, ledger)
            for fault in (ledger.broken, uncovered):
                if fault is not None:
                    raise fault
            actions = _check_actions(db, ledger)
            superseded = _check_superseded(db, ledger)
            _check_file(db)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second: a message that quotes a damaged name
            raise Broken("file", None, None, None, f"it cannot be read to its end ({error})") from error
    return Verified(records, keys, ledger.count, actions, superseded)


def _text(raw: bytes) -> str:
    """A damaged byte must name its record, not end the reading."""
    return raw.decode("utf-8", "surrogateescape")


def _has_hash(row: Row) -> bool:
    """Whether a row of human_actions or checkpoints has the hash at its end."""
    try:
        return bool(row_hash(row[:-1]) == row[-1])
    except TypeError:  # a text that is no longer UTF-8
        return False


def _fold(db: sqlite3.Connection) -> _Ledger:
    ledger = _Ledger()
    rows = db.execute(f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints ORDER BY flow, n")
    for flow, of_flow in groupby(rows, key=lambda row: str(row[0])):
        expected, link, records = 0, GENESIS, 0
        for row in of_flow:
            _, n, prev, heads, total, superseded, human_n, human_hash, hash_ = row
            why = None
            if n != expected:
                why = f"checkpoint {expected} of {flow} is missing"
            elif not _has_hash(row):
                why = f"checkpoint {n} of {flow} was changed"
            elif prev != link:
                why = f"checkpoint {n} of {flow} does not follow the one before it"
            else:
                for key, (seq, head) in orjson.loads(heads).items():
                    records += seq - ledger.heads.get((flow, key), (-1, ""))[0]
                    ledger.heads[flow, key] = (seq, head)
                if records != total:
                    why = f"checkpoint {n} of {flow} states {total} records, its heads make {records}"
            if why is not None:
                return _Ledger(broken=Broken("checkpoints", None, None, expected, why))
            ledger.superseded[flow] = superseded
            ledger.actions[human_n] = human_hash
            ledger.count += 1
            expected, link = n + 1, hash_
    return ledger


def _walk(db: sqlite3.Connection, ledger: _Ledger) -> tuple[int, int, Broken | None]:
    """Number of records and of chains, and the first chain that goes further than the checkpoints know."""
    known = deque(sorted(ledger.heads))
    records = keys = 0
    uncovered: Broken | None = None
    rows = db.execute(f"SELECT {_RECORD} FROM decisions ORDER BY flow, key, seq")
    for chain, of_chain in groupby(rows, key=lambda row: (str(row[0]), str(row[1]))):
        if known and known[0] < chain:
            break
        seq, head = _walk_chain(chain, of_chain)
        records, keys = records + seq + 1, keys + 1
        stated = ledger.heads.get(chain, (-1, GENESIS))
        if known and known[0] == chain:
            known.popleft()
        if seq < stated[0]:
            raise _missing(chain, seq + 1, f"the checkpoints know this key up to record {stated[0]}")
        if uncovered is None and (seq, head) != stated:
            why = f"no checkpoint names record {seq} of {chain[1]} as the last of its key: a checkpoint is missing"
            uncovered = Broken("checkpoints", None, chain[1], seq, why)
    if known:
        raise _missing(known[0], 0, "the checkpoints know this key, but no record of it is left")
    return records, keys, uncovered


def _walk_chain(chain: Chain, rows: Iterator[Row]) -> Head:
    seq, link = -1, GENESIS
    for row in rows:
        if row[2] != seq + 1:
            raise _missing(chain, seq + 1, f"the next record of this key is {row[2]}")
        why = _fault(row)
        if why is None and row[9] != link:
            why = "it does not follow the record before it"
        if why is not None:
            raise Broken("decisions", row[3], chain[1], row[2], why)
        seq, link = row[2], row[8]
    return seq, link


def _missing(chain: Chain, seq: int, why: str) -> Broken:
    return Broken("decisions", None, chain[1], seq, f"the record is missing: {why}")


def _fault(row: Row) -> str | None:
    """Why a record does not hold by itself; None when it does. row: `_RECORD`.

    A record was sealed as the SHA-256 of its canonical bytes without `hash`. So the stored bytes with that one part cut
    out have to give it; this is exact, and half the work of building those bytes anew.
    """
    *columns, raw = row
    stated = str(columns[8])
    part = b'"hash":"%b",' % stated.encode("utf-8", "surrogateescape")
    before, found, after = raw.partition(part)
    if not found or sha256(before + after).hexdigest() != stated:
        return "its text or its hash was changed: they do not belong together"
    record = orjson.loads(raw)
    if list(record) != sorted(record):
        return "its text was changed: it is not in the form in which it was written"
    start_us, end_us = map(instant_us, record["window"])
    says = {**record, "start_us": start_us, "end_us": end_us}
    for name, column in zip(_NAMES, columns, strict=True):
        if says.get(name) != column:
            return f"the column {name} was changed: it holds {column}, the record says {says.get(name)}"
    return None


def _check_actions(db: sqlite3.Connection, ledger: _Ledger) -> int:
    """Number of human actions. Each has a checkpoint of its own, which is what binds it to its place."""
    count = 0
    for row in db.execute(f"SELECT {ACTION_COLUMNS} FROM human_actions ORDER BY n"):
        n, _, id_, decision, *_, hash_ = row
        why = None
        if n != count + 1:
            raise _missing_action(count + 1)
        if not _has_hash(row):
            why = "it was changed: it does not have the hash it was written with"
        elif n not in ledger.actions:
            raise Broken("checkpoints", None, None, None, f"none names human action {n}: a checkpoint is missing")
        elif ledger.actions[n] != hash_:
            why = "it was replaced: a checkpoint names another"
        elif not _is_kept(db, "id = ? AND hash = ?", (id_, decision)):
            why = "the decision it refers to is not in the file"
        if why is not None:
            raise Broken("human_actions", id_, None, n, why)
        count = n
    if count < max(ledger.actions, default=0):
        raise _missing_action(count + 1)
    return count


def _missing_action(n: int) -> Broken:
    return Broken("human_actions", None, None, n, "the human action is missing: a later one or a checkpoint follows it")


def _is_kept(db: sqlite3.Connection, where: str, values: Row) -> bool:
    """Whether a record stands in its chain, or was moved aside."""
    query = f"SELECT 1 FROM decisions WHERE {where} UNION ALL SELECT 1 FROM superseded WHERE {where} LIMIT 1"
    return db.execute(query, (*values, *values)).fetchone() is not None


def _check_superseded(db: sqlite3.Connection, ledger: _Ledger) -> int:
    """Each record that was moved aside by itself, that the one before it is kept, and that none is missing."""
    found = dict.fromkeys(ledger.superseded, 0)
    for row in db.execute(f"SELECT {_RECORD} FROM superseded ORDER BY flow, key, seq, n"):
        flow, key, seq, id_, *_, prev, _ = row
        why = _fault(row)
        if (
            why is None
            and seq
            and not _is_kept(db, "flow = ? AND key = ? AND seq = ? AND hash = ?", (flow, key, seq - 1, prev))
        ):
            why = "the record before it is missing"
        if why is not None:
            raise Broken("superseded", id_, key, seq, why)
        found[flow] = found.get(flow, 0) + 1
    for flow, stated in ledger.superseded.items():
        if found[flow] != stated:
            why = f"{flow} has {found[flow]} records that were set aside, its last checkpoint states {stated}"
            raise Broken("superseded", None, None, None, why)
    return sum(found.values())


def _check_file(db: sqlite3.Connection) -> None:
    """The pages and indexes agree: a record that an index does not list would have been passed over above."""
    (state,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if state != "ok":
        raise Broken("file", None, None, None, f"it is damaged ({state})")
