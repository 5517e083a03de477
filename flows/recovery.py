"""The recovery folder: Bytewax's snapshots in SQLite, which store they belong to, and what is wrong with them in words.

Bytewax tells of a store that it cannot use by whatever its libraries raise. Most of that is found here before a
dataflow starts; the rest is told as what it is.
"""

import errno
import os
import pickle
import re
import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from bytewax.recovery import (
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    RecoveryConfig,
    init_db_dir,
)

from flows.connectors.sqlite import LOST
from flows.store.outbox import token
from schemas.errors import SinkLost, TidegateError, UsageError

PARTS = "part-*.sqlite3"
STORE = "store"
"""File that names the store to which the snapshots belong."""
ROOM_BYTES = 256 * 1024
"""What SQLite takes to begin. With less it fails half-way, which Bytewax tells in a way of its own."""
_ANEW = "start with a new --recovery, decisions go on in the same chains"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FAILED = re.compile(r"extended_code: (\d+)")
_DAMAGED = (NoPartitionsError, MissingPartitionsError, InconsistentPartitionsError)


def recovery_of(folder: Path | None, store: Path | None = None) -> RecoveryConfig | None:
    """The recovery store in `folder`, made if it is not there. store: the one whose run it is, None for none.

    Errors: UsageError when it is damaged, of another store, or cannot be used; SinkLost when its disk is full.
    """
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _room(folder)
        kept = folder / STORE
        if not any(folder.glob(PARTS)):
            if kept.exists():
                raise _damaged(folder, "its snapshots are gone")
            _make(folder)
        begun = _check(folder)
        if store is not None:
            _pair(folder, kept, store, begun)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(folder) from error
        raise UsageError(f"the recovery folder {folder} cannot be used ({error.strerror}): check the path") from error
    return RecoveryConfig(str(folder))


def recovery_of_member(index: int, folder: Path | None, store: Path, held: ExitStack) -> RecoveryConfig | None:
    """The first process keeps the recovery store; the others need an empty one to say that there is one."""
    if folder is None or not index:
        return recovery_of(folder, store)
    return RecoveryConfig(held.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-")))


def trouble(folder: Path, error: BaseException) -> TidegateError | None:
    """What an error of Bytewax, or a process that is gone, says of the recovery store; None when it is about others."""
    said = _said(folder, error)
    if said is not None:
        return said
    try:
        _room(folder)
        _check(folder)
    except TidegateError as found:
        return found
    except OSError as found:
        return _full(folder) if found.errno in _NO_ROOM else None
    return None


def unreadable(folder: Path, error: Exception) -> UsageError:
    """A snapshot that is none of this version, or no snapshot at all."""
    return UsageError(f"the recovery folder {folder} holds what this version cannot read ({error}): {_ANEW}")


def _room(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)


def _make(folder: Path) -> None:
    # Made aside and moved in whole: a power cut in between leaves no half-made store to trip over.
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        try:
            init_db_dir(Path(aside), 1)
        except BaseException as error:  # a panic is no Exception
            said = _said(folder, error)
            if said is None:
                raise
            raise said from error
        for part in Path(aside).iterdir():
            part.rename(folder / part.name)


def _check(folder: Path) -> bool:
    """Whether a run has begun with it. Errors: UsageError, SinkLost."""
    begun, there, wanted = False, set[int](), {-1}
    for path in sorted(folder.glob(PARTS)):
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise _damaged(folder, f"{path.name}: {' '.join(said.split())}")
                number, count = db.execute("SELECT part_index, part_count FROM parts").fetchone() or (-1, 0)
                there.add(number)
                wanted = set(range(count))
                begun = begun or db.execute("SELECT 1 FROM exs").fetchone() is not None
                _load(folder, db)
        except sqlite3.DatabaseError as error:
            raise _told(folder, getattr(error, "sqlite_errorcode", 0), str(error)) from error
    if there != wanted:
        raise _damaged(folder, "a part of it is missing")
    return begun


def _load(folder: Path, db: sqlite3.Connection) -> None:
    """What Bytewax will do with the snapshots, one after the other: SQLite has no sum of what is in a cell."""
    for step, key, change in db.execute("SELECT step_id, state_key, ser_change FROM snaps WHERE ser_change NOT NULL"):
        try:
            pickle.loads(change)
        except Exception as error:  # of damaged bytes pickle makes any
            raise _damaged(folder, f"the snapshot of {step} {key}: {error}") from error


def _pair(folder: Path, kept: Path, store: Path, begun: bool) -> None:
    """Note whose it is before it is used; afterwards it goes with no other. One that was made without it may go on."""
    ours = token(store)
    if not begun:
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            Path(aside, STORE).write_text(ours)
            Path(aside, STORE).rename(kept)
    elif kept.exists() and kept.read_text().strip() not in ("", ours):
        raise UsageError(
            f"the recovery folder {folder} belongs to another store than {store}, which would lack all that was "
            f"decided before: give the --sink that it belongs to, or {_ANEW}"
        )


def _said(folder: Path, error: BaseException) -> TidegateError | None:
    failed = _FAILED.search(str(error))
    if failed:
        return _told(folder, int(failed[1]), str(error).rpartition('Some("')[2].partition('"')[0])
    return _damaged(folder, str(error)) if isinstance(error, _DAMAGED) else None


def _told(folder: Path, code: int, said: str) -> TidegateError:
    """What one of SQLite's codes means here."""
    if code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return UsageError(f"the recovery folder {folder} cannot be used ({said}): check the path")
    if code & 0xFF in LOST and code & 0xFF != sqlite3.SQLITE_CORRUPT:
        return SinkLost(LOST[code & 0xFF].format(path=folder, name=said))
    return _damaged(folder, said)


def _full(folder: Path) -> SinkLost:
    return SinkLost(LOST[sqlite3.SQLITE_FULL].format(path=folder))


def _damaged(folder: Path, what: str) -> UsageError:
    return UsageError(f"the recovery folder {folder} is damaged ({what}): {_ANEW}")
