"""Where a new run goes on in a store that other runs have written."""

from contextlib import closing
from pathlib import Path

from flows.connectors.sqlite import open_existing
from schemas.decisions import GENESIS


def place_in_chain(path: Path, flow: str, key: str, decision: str) -> tuple[int, str]:
    """The (seq, prev) of a decision stored for this key, or of the next one to be stored. Errors: UsageError."""
    if not path.exists():
        return 0, GENESIS
    with closing(open_existing(path, "ro")) as db:
        found = db.execute(
            "SELECT min(seq), prev FROM decisions WHERE flow = ? AND key = ? AND id = ?", (flow, key, decision)
        ).fetchone()
        if found[0] is not None:
            return int(found[0]), str(found[1])
        head = db.execute("SELECT max(seq), hash FROM decisions WHERE flow = ? AND key = ?", (flow, key)).fetchone()
    return (0, GENESIS) if head[0] is None else (head[0] + 1, head[1])


def is_decided(path: Path, decision: str) -> bool:
    """Whether a decision with this id is stored. Errors: UsageError."""
    with closing(open_existing(path, "ro")) as db:
        return db.execute("SELECT 1 FROM decisions WHERE id = ? LIMIT 1", (decision,)).fetchone() is not None
