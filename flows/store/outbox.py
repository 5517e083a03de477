"""What outlets send, read from the store: the items after a place, and the place, which the store keeps.

Order. Decisions come in the order in which they were written, which for one flow and key is the order of its chain.
Numbers are never given twice and every number that is visible stays behind all later ones, so nothing is passed over.

What a consumer sees. At least once: after a kill some items come again, from an earlier one on, in the same order.
After a restart a flow may decide anew what it decided before and find it otherwise (a live run, whose clock differs).
The store then moves the old branch aside and goes on from the record where both agree. An outlet that has sent part of
the old branch sends the new one after it, and no part of the old one any more. One rule covers both, exactly:

    a decision with `flow`, `key` and `seq` replaces everything of that flow and key with this `seq` or a higher one.

Whoever keeps only the last of each (id, revision) is wrong in one case: where a decision of the old branch has no
counterpart in the new one. `prev` is the proof: it names the `hash` of the record with `seq` - 1 that still holds.

Dead letters: one whose bytes were replaced under the same source, offset and reason comes again.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from flows.connectors.headers import of_message
from flows.connectors.outlets import Item, Kind, Mark, Pace, Refusal
from flows.connectors.sqlite import WAL_PAGES, in_plain_words, open_existing, transaction
from schemas.errors import UsageError

_DECISIONS = """SELECT d.n, d.id, d.revision, CAST(d.record AS BLOB), t.traceparent FROM decisions d
    LEFT JOIN traces t ON t.hash = d.hash WHERE d.n > ? ORDER BY d.n LIMIT ?"""
_LETTERS = """SELECT n, flow, stream, source, offset, reason, detail, raw, header FROM dead_letters
    WHERE n > ? ORDER BY n LIMIT ?"""
_LAST = {
    "decision": "SELECT coalesce(max(n), 0) FROM decisions",
    "dead_letter": "SELECT coalesce(max(n), 0) FROM dead_letters",
}
_REGISTER = "INSERT INTO outlets VALUES (?, ?, 0, 0, 0, 0, '', ?) ON CONFLICT (name) DO UPDATE SET dead_letters = ?"
_MOVE = "UPDATE outlets SET n = ?, letter_n = ?, sent = sent + ?, why = '', at_us = ? WHERE name = ?"
_REFUSE = "INSERT OR REPLACE INTO refusals (outlet, kind, n, id, revision, why, at_us) VALUES (?, ?, ?, ?, ?, ?, ?)"
_WHY_CHARS_MAX = 500
REFUSALS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Place:
    """How far an outlet is: the numbers of the last decision and of the last dead letter that are settled."""

    n: int = 0
    letter_n: int = 0

    def after(self, items: Sequence[Item]) -> "Place":
        """The place once these are settled."""
        last: dict[Kind, int] = {item.kind: item.n for item in items}
        return Place(last.get("decision", self.n), last.get("dead_letter", self.letter_n))


@dataclass(frozen=True, slots=True)
class OutletState:
    """An outlet as the store knows it. sent, refused: items; failed: attempts; why: of the last, if it failed."""

    name: str
    behind: int
    sent: int
    refused: int
    failed: int
    why: str
    at_us: int


def token(path: Path) -> str:
    """What tells this store from every other, unless it is a copy. Errors: UsageError, SinkLost."""
    with closing(open_existing(path, "rw")) as db, in_plain_words(path):
        return str(db.execute("SELECT token FROM identity").fetchone()[0])


class Outbox:
    """One outlet's view of the store. Used by one thread. Errors, of all: SinkLost."""

    def __init__(self, path: Path, name: str, dead_letters: bool, at_us: int) -> None:
        """Errors: UsageError when there is no store."""
        self._path, self._name, self._dead_letters = path, name, dead_letters
        self._db = open_existing(path, "rw")
        try:
            # A place that a power cut takes back costs a repetition; to force each to disk would slow the flow down.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            with transaction(self._db, path):
                self._db.execute(_REGISTER, (name, dead_letters, at_us, dead_letters))
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the store."""
        self._db.close()

    def place(self) -> Place:
        """Where the outlet stands; the beginning for one that is new."""
        with in_plain_words(self._path):
            return Place(*self._db.execute("SELECT n, letter_n FROM outlets WHERE name = ?", (self._name,)).fetchone())

    def behind(self, place: Place) -> int:
        """How many items are still to be sent: at most, as some may have been moved aside."""
        with in_plain_words(self._path):
            return _behind(self._db, place, self._dead_letters)

    def read(self, place: Place, pace: Pace) -> tuple[list[Item], bool]:
        """The next items of each kind, decisions first, and whether there may be more; one at least, however large."""
        with in_plain_words(self._path):
            found, more = _bounded(map(_decision, self._db.execute(_DECISIONS, (place.n, pace.rows))), pace)
            if self._dead_letters:
                letters, more_letters = _bounded(
                    map(_letter, self._db.execute(_LETTERS, (place.letter_n, pace.rows))), pace
                )
                found, more = found + letters, more or more_letters
        return found, more

    def move(self, place: Place, sent: int, refusals: Sequence[Refusal], at_us: int) -> None:
        """Keep the place, and which items were refused on the way."""
        with transaction(self._db, self._path):
            self._db.execute(_MOVE, (place.n, place.letter_n, sent, at_us, self._name))
            self._db.executemany(
                _REFUSE,
                [
                    (self._name, item.kind, item.n, item.id, item.revision, refusal.why[:_WHY_CHARS_MAX], at_us)
                    for refusal in refusals
                    for item in (refusal.item,)
                ],
            )

    def failed(self, why: str) -> None:
        """Note an attempt that failed, for whoever looks."""
        with transaction(self._db, self._path):
            query = "UPDATE outlets SET failed = failed + 1, why = ? WHERE name = ?"
            self._db.execute(query, (why[:_WHY_CHARS_MAX], self._name))

    def reconcile(self, place: Place, remembered: Mapping[Kind, Mark]) -> Place:
        """The place, moved on to what the far side holds already.

        Errors: UsageError when the far side's mark is none of this store's: it holds what another store has sent.
        """
        found = {"decision": place.n, "dead_letter": place.letter_n}
        for kind, mark in remembered.items():
            with in_plain_words(self._path):
                known = self._knows(kind, mark)
            if not known:
                raise UsageError(
                    f"{self._name} holds what this store has not sent (up to {kind} {mark.n}): {self._path} is an "
                    "older copy. Put the right one back, or give the sink another name=..., and all of it is sent anew"
                )
            found[kind] = max(found[kind], mark.n)
        return Place(found["decision"], found["dead_letter"])

    def _knows(self, kind: Kind, mark: Mark) -> bool:
        if mark.n > self._db.execute(_LAST[kind]).fetchone()[0]:
            return False
        query, item = (_DECISIONS, _decision) if kind == "decision" else (_LETTERS, _letter)
        found = self._db.execute(query, (mark.n - 1, 1)).fetchone()
        # A number that is gone was moved aside, or given anew, after it was sent.
        return found is None or found[0] != mark.n or item(found).mark == mark.mark


def _behind(db: sqlite3.Connection, place: Place, dead_letters: bool) -> int:
    behind: int = db.execute(_LAST["decision"]).fetchone()[0] - place.n
    if dead_letters:
        behind += db.execute(_LAST["dead_letter"]).fetchone()[0] - place.letter_n
    return max(behind, 0)


def _bounded(items: Iterator[Item], pace: Pace) -> tuple[list[Item], bool]:
    found: list[Item] = []
    size = 0
    for item in items:
        size += len(item.body)
        if found and size > pace.bytes:
            return found, True
        found.append(item)
    return found, len(found) == pace.rows


def _decision(row: tuple[Any, ...]) -> Item:
    n, id_, revision, body, traceparent = row
    return Item(n, "decision", id_, revision, body, traceparent)


def _letter(row: tuple[Any, ...]) -> Item:
    n, flow, stream, source, offset, reason, detail, raw, header = row
    body = {"flow": flow, "stream": stream, "source": source, "offset": offset, "reason": reason, "detail": detail}
    body |= _text("raw", raw)
    if header is not None:
        body |= orjson.loads(header) if of_message(header) else _text("header", header)
    return Item(n, "dead_letter", f"{source}:{offset}:{reason}", 0, orjson.dumps(body))


def _text(name: str, raw: bytes) -> dict[str, str]:
    """Bytes in JSON: as text, or in hexadecimal where they are no UTF-8."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_hex": raw.hex()}


def outlets(path: Path) -> list[OutletState]:
    """Every outlet that ever followed this store, by name. Errors: UsageError, SinkLost."""
    query = """SELECT name, dead_letters, n, letter_n, sent, (SELECT count(*) FROM refusals WHERE outlet = name),
        failed, why, at_us FROM outlets ORDER BY name"""
    with closing(open_existing(path, "rw")) as db, in_plain_words(path):
        return [
            OutletState(name, _behind(db, Place(n, letter_n), bool(letters)), *rest)
            for name, letters, n, letter_n, *rest in db.execute(query).fetchall()
        ]


def forget(path: Path, name: str) -> None:
    """Forget an outlet that is used no more; if it is used again, it starts from the beginning.

    Errors: UsageError when it is not known; SinkLost.
    """
    with closing(open_existing(path, "rw")) as db, transaction(db, path):
        if not db.execute("DELETE FROM outlets WHERE name = ?", (name,)).rowcount:
            raise UsageError(f"{path} knows no outlet {name}: `tidegate outlets --db {path}` lists them")
        db.execute("DELETE FROM refusals WHERE outlet = ?", (name,))


def outlets_text(path: Path) -> str:
    """What `tidegate outlets` prints: a line for each, and what it refused. Errors: UsageError, SinkLost."""
    lines = []
    query = "SELECT kind, n, id, revision, why FROM refusals WHERE outlet = ? ORDER BY at_us DESC, n DESC LIMIT ?"
    with closing(open_existing(path, "rw")) as db, in_plain_words(path):
        for state in outlets(path):
            at = datetime.fromtimestamp(state.at_us / 1e6, UTC).isoformat(timespec="seconds")
            lines.append(
                f"{state.name}  {state.behind} behind, {state.sent} sent, {state.refused} refused, "
                f"{state.failed} failed attempts, moved last {at}" + (f": {state.why}" if state.why else "")
            )
            for kind, n, id_, revision, why in db.execute(query, (state.name, REFUSALS_SHOWN_MAX)):
                lines.append(f"    refused {kind} {n}, {id_} r{revision}: {why}")
    return "\n".join(lines) if lines else f"no outlet follows {path}"
