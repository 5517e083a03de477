"""JSON Lines -> typed columns, at the parser's own speed, at the cost of the bad lines only.

The parser (Polars, strict) refuses a whole buffer for one bad line, and says neither which nor how many. So a clean
buffer is parsed at once; a refused one is cut until the bad lines stand alone. What the parser accepts is good: a
line's fate depends neither on its neighbours nor on the cut.
"""

import io
import json
from collections.abc import Sequence

import numpy as np
import orjson
import polars as pl

from operators.columnar.checks import Fault

PIECE_LINES = 2_500  # a caller hands over at most so many: a refusal then costs a part, a clean buffer little
CUT = 4
LEAF_LINES = 320  # a refused piece this small is searched line by line: each call of the parser costs 0.2 ms
_REFUSED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def parse_lines(
    lines: Sequence[bytes], schema: pl.Schema, line_bytes_max: int, *, refused: bool = False
) -> tuple[pl.DataFrame, list[int] | None, list[Fault]]:
    """Parse n lines into (good, columns of `schema`), the positions of the good ones (None: all n), and the faults.

    A fault is (position, reason, detail): too_long, not_json or wrong_type, in order of position. Fields that are
    absent or null are null; fields outside the schema are ignored. What is no string becomes text in a String column.
    refused: it is known already
    that they do not parse as a whole.
    """
    lines_of = _Lines(schema)
    if lines and max(map(len, lines)) > line_bytes_max:
        fit = [at for at, line in enumerate(lines) if len(line) <= line_bytes_max]
        long = set(range(len(lines))).difference(fit)
        lines_of.faults += [(at, "too_long", f"{len(lines[at])} bytes; the limit is {line_bytes_max}") for at in long]
        lines_of.parse([lines[at] for at in fit], fit, 1)
    else:
        lines_of.parse(lines, range(len(lines)), CUT if refused else 1)
    frames = lines_of.frames or [schema.to_frame()]
    frame = frames[0] if len(frames) == 1 else pl.concat(frames, rechunk=True)
    faults = sorted(lines_of.faults)
    return frame, lines_of.kept if faults else None, faults


def occurrences(buffer: bytes, byte: bytes) -> int:
    """How often a byte stands in a buffer; `bytes.count` takes ten times as long where it is frequent."""
    return int(np.count_nonzero(np.frombuffer(buffer, np.uint8) == byte[0]))


def may_hold_no_text(buffer: bytes, objects: int) -> bool:
    """Whether a buffer of so many objects could hold something that the parser turns into text though it is none."""
    return (
        b"[" in buffer
        or b"\\" in buffer
        or b"true" in buffer
        or b"false" in buffer
        or occurrences(buffer, b"{") > objects
    )


def parse_clean(buffer: bytes, count: int, schema: pl.Schema) -> pl.DataFrame | None:
    """`count` lines at once, a row for each, or None where any is bad. A blank line or a line break inside a line would
    shift rows: refused too.
    """
    if occurrences(buffer, b"\n") != count - 1:
        return None
    try:
        # As `read_ndjson`, without what that does before it: a fifth of the time of a small buffer.
        frame = pl.scan_ndjson(io.BytesIO(buffer), schema=schema).collect(engine="streaming")
    except _REFUSED:
        return None
    return frame if frame.height == count else None


class _Lines:
    """Good rows, their positions and the faults of one call."""

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema
        self._fits = {name: _PYTHON[dtype] for name, dtype in schema.items() if dtype in _PYTHON}
        self.frames: list[pl.DataFrame] = []
        self.kept: list[int] = []
        self.faults: list[Fault] = []

    def parse(self, lines: Sequence[bytes], at: Sequence[int], pieces: int) -> None:
        """Parse lines that stand at the positions `at`, in order; a refused piece is cut further."""
        step = -(-len(lines) // pieces) or 1
        for start in range(0, len(lines), step):
            piece, places = lines[start : start + step], at[start : start + step]
            frame = self._strict(piece)
            if frame is not None:
                self._keep(frame, places)
            elif len(piece) > LEAF_LINES:
                self.parse(piece, places, CUT)
            else:
                self._search(piece, places)

    def _keep(self, frame: pl.DataFrame, places: Sequence[int]) -> None:
        self.frames.append(frame)
        self.kept.extend(places)

    def _strict(self, lines: Sequence[bytes]) -> pl.DataFrame | None:
        return parse_clean(b"\n".join(lines), len(lines), self.schema)

    def _search(self, lines: Sequence[bytes], at: Sequence[int]) -> None:
        """Set the bad lines of a small piece aside and parse the others."""
        good, places = [], []
        for line, place in zip(lines, at, strict=True):
            line, fault = self._inspect(line)
            if fault is None:
                good.append(line)
                places.append(place)
            else:
                self.faults.append((place, *fault))
        frame = self._strict(good) if good else None
        if frame is not None:
            self._keep(frame, places)
            return
        for line, place in zip(good, places, strict=True):  # a refusal that `_inspect` does not foresee
            frame = self._strict([line])
            if frame is not None:
                self._keep(frame, [place])
            else:
                self.faults.append((place, "not_json", "the parser refuses this line"))

    def _inspect(self, line: bytes) -> tuple[bytes, tuple[str, str] | None]:
        """The line as it can be parsed (a line break inside it is white space), and what is wrong with it."""
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if _lenient(line) and self._strict([line]) is not None:
                return line, None
            return line, ("not_json", str(error) if line.strip() else "blank line")
        if not isinstance(value, dict):
            return line, ("wrong_type", f"{_shown(value)} is not an object")
        for name, item in value.items():
            fits = self._fits.get(name)
            if fits is None or (type(item) in fits and (float in fits or not _is_wide(item))):
                continue
            if _repeats_a_name(line) and self._strict([line]) is not None:
                return line, None
            return line, ("wrong_type", f"{name} {_shown(item)} is not {_NOUNS[self.schema[name]]}")
        return orjson.dumps(value) if b"\n" in line else line, None


_PYTHON: dict[pl.DataType | type[pl.DataType], set[type]] = {
    pl.Float64(): {float, int, type(None)},
    pl.Int64(): {int, type(None)},
    pl.Boolean(): {bool, type(None)},
}
_NOUNS: dict[pl.DataType | type[pl.DataType], str] = {
    pl.Float64(): "a number",
    pl.Int64(): "a whole number of 64 bits",
    pl.Boolean(): "true or false",
}


def _lenient(line: bytes) -> bool:
    """Whether a more forgiving parser reads the line; only then is it worth asking Polars about it alone."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _repeats_a_name(line: bytes) -> bool:
    """Whether an object has a name twice: Polars reads the first value, orjson the last."""
    pairs = json.loads(line, object_pairs_hook=list)
    return len({name for name, _ in pairs}) < len(pairs)


def _is_wide(item: object) -> bool:
    return type(item) is int and not -(2**63) <= item < 2**63


def _shown(value: object) -> str:
    """A value in a message, cut short."""
    return orjson.dumps(value).decode("utf-8", "replace")[:64]
