"""State as bytes: one line of JSON that says what it is, then an Arrow IPC file. Plain, versioned, no class of ours."""

import io
import json
from collections.abc import Sequence

import polars as pl


def pack(name: str, frame: pl.DataFrame, **numbers: int | None) -> bytes:
    """Write `frame` and a few numbers under a versioned name such as `windows/1`."""
    body = io.BytesIO()
    body.write(json.dumps({"state": name, "rows": frame.height, **numbers}).encode() + b"\n")
    frame.write_ipc(body, compression="lz4")
    return body.getvalue()


def unpack(name: str, state: bytes) -> tuple[pl.DataFrame, dict[str, int | None]]:
    """What `pack` wrote. Errors: ValueError if the bytes are another state, another version, or incomplete."""
    header, newline, body = state.partition(b"\n")
    found = json.loads(header) if newline else {}
    if found.get("state") != name:
        raise ValueError(
            f"the recovery store holds {found.get('state')!r}, this version reads {name!r}: start it empty"
        )
    frame = pl.read_ipc(io.BytesIO(body))
    if frame.height != found["rows"]:
        raise ValueError(f"the recovery store holds {frame.height} rows of {name}, {found['rows']} were written")
    return frame, found


def renumber(name: str, state: bytes, column: str, numbers: Sequence[int]) -> bytes:
    """The same state with other numbers in one column: `numbers[old]` is the new one."""
    frame, found = unpack(name, state)
    new = pl.Series(column, numbers, frame.schema[column]).gather(frame[column])
    kept = {key: value for key, value in found.items() if key not in ("state", "rows")}
    return pack(name, frame.with_columns(new.alias(column)), **kept)
