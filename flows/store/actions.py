"""What people decide about decisions: accept a proposal, override an action. Kept in a hash chain, never changed."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import orjson

from flows.connectors.sqlite import (
    ACTION_COLUMNS,
    BUSY_TIMEOUT_S,
    append_checkpoint,
    last_action,
    open_existing,
    row_hash,
    transaction,
)
from schemas.decisions import Record
from schemas.errors import UsageError

BY_CHARS_MAX = 128
REASON_CHARS_MAX = 2000


def accept(path: Path, decision_id: str, by: str, reason: str, at_us: int, proposal: str | None = None) -> str:
    """Accept an open proposal of the decision's last revision; gives its id. `proposal` chooses when several are open.

    Errors: UsageError when there is nothing to accept, or no name or reason; SinkLost when the file cannot be written.
    """
    by, reason = _said("--by", by, BY_CHARS_MAX), _said("--reason", reason, REASON_CHARS_MAX)
    with closing(open_existing(path, "rw", BUSY_TIMEOUT_S)) as db, transaction(db, path):
        record = _standing(db, path, decision_id)
        proposed = [str(each["id"]) for each in record["proposals"]]
        query = "SELECT proposal FROM human_actions WHERE decision_id = ? AND verb = 'accept'"
        accepted = {found for (found,) in db.execute(query, (decision_id,))}
        chosen = _choose(decision_id, [each for each in proposed if each not in accepted], accepted, proposal)
        _append(db, record, "accept", chosen, None, by, reason, at_us)
        return chosen


def override(path: Path, decision_id: str, by: str, reason: str, at_us: int, action: str | None = None) -> None:
    """Log that a person set the decision aside, and what they chose to do if they say so.

    Errors: UsageError when the decision is unknown, or no name or reason; SinkLost when the file cannot be written.
    """
    by, reason = _said("--by", by, BY_CHARS_MAX), _said("--reason", reason, REASON_CHARS_MAX)
    done = None if action is None else _said("--action", action, BY_CHARS_MAX)
    with closing(open_existing(path, "rw", BUSY_TIMEOUT_S)) as db, transaction(db, path):
        _append(db, _standing(db, path, decision_id), "override", None, done, by, reason, at_us)


def accepted_settings(
    path: Path, flow: str, key_field: str, effects: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Accepted proposals as rows of a flow's settings stream, in the order of acceptance.

    effects: proposal id -> the fields it sets. Each row: offset (the number of the human action), ts (end of the
    decision's window, RFC 3339), `key_field` (the key), the fields, by. A file that does not exist yet has none.
    Errors: UsageError when the file is not ours.
    """
    if not path.exists():
        return []
    query = """SELECT h.n, h.proposal, h."by", coalesce(d.record, s.record) FROM human_actions h
        LEFT JOIN decisions d ON d.id = h.decision_id AND d.hash = h.decision_hash
        LEFT JOIN superseded s ON s.id = h.decision_id AND s.hash = h.decision_hash
        WHERE h.verb = 'accept' AND coalesce(d.flow, s.flow) = ? GROUP BY h.n ORDER BY h.n"""
    with closing(open_existing(path, "ro")) as db:
        found = db.execute(query, (flow,)).fetchall()
    rows: list[dict[str, Any]] = []
    for n, proposal, by, text in found:
        if proposal in effects:
            record = orjson.loads(text)
            place = {"offset": n, "ts": record["window"][1], key_field: record["key"]}
            rows.append({**place, **effects[proposal], "by": by})
    return rows


def _said(option: str, text: str, chars_max: int) -> str:
    text = text.strip()
    if not text:
        raise UsageError(f"{option} is empty: say who acts and why, it is kept with the decision")
    if len(text) > chars_max:
        raise UsageError(f"{option} has {len(text)} characters, at most {chars_max} are kept: shorten it")
    return text


def _standing(db: sqlite3.Connection, path: Path, decision_id: str) -> Record:
    """The last revision of a decision."""
    query = "SELECT record FROM decisions WHERE id = ? ORDER BY revision DESC LIMIT 1"
    found = db.execute(query, (decision_id,)).fetchone()
    if found is None:
        raise UsageError(f"there is no decision {decision_id} in {path}: `tidegate decisions --db {path}` lists them")
    record: Record = orjson.loads(found[0])
    return record


def _choose(decision_id: str, still_open: list[str], accepted: set[str], proposal: str | None) -> str:
    if proposal in accepted:
        raise UsageError(f"proposal {proposal} of decision {decision_id} was accepted before: nothing is left to do")
    if not still_open:
        state = "were all accepted before" if accepted else "are none"
        raise UsageError(f"decision {decision_id} has nothing to accept, proposals {state}: use override to act on it")
    if proposal is None and len(still_open) > 1:
        raise UsageError(f"decision {decision_id} has several proposals: choose one of {', '.join(still_open)}")
    if proposal is not None and proposal not in still_open:
        raise UsageError(f"decision {decision_id} has no proposal {proposal}: choose one of {', '.join(still_open)}")
    return proposal or still_open[0]


def _append(
    db: sqlite3.Connection,
    record: Record,
    verb: Literal["accept", "override"],
    proposal: str | None,
    action: str | None,
    by: str,
    reason: str,
    at_us: int,
) -> None:
    n, prev = last_action(db)
    row = (n + 1, at_us, record["id"], record["hash"], verb, proposal, action, by, reason, prev)
    db.execute(
        f"INSERT INTO human_actions ({ACTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, row_hash(row)),
    )
    append_checkpoint(db, record["flow"], {}, 0, 0, at_us)  # so that a missing last action shows
