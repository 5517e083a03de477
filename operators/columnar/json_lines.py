"""JSON Lines -> typed columns, at the parser's own speed, at the cost of the bad lines only.

The parser (Polars, strict) refuses a whole buffer for one bad line, and does not say which. So a clean buffer is parsed
at once; a refused one is searched, first where the refusal points, then line by line, and parsed without what was
found. What the parser accepts is good: a line's fate depends neither on its neighbours nor on the cut.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import orjson
import polars as pl

from operators.columnar.checks import Fault
from operators.columnar.grouping import Ints

NUMBER_CHARS_MAX = 512
"""What is no string becomes text in a String column; 1e308 is 309 digits then, however short its line is."""
LINES_DIFFER = "a line is too long, or has a line break inside"
LEAF_LINES = 16  # so few lines are parsed one by one
_REFUSED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_CULPRIT = re.compile(r"cannot parse '(.*)' \((\w+)\) as ", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parsed:
    """frame: the good lines; faults: (position, reason, detail) of the others. may_hold_no_text: whether there
    could be text in `frame` that is an array, an object or half a character in its line.
    """

    frame: pl.DataFrame
    faults: list[Fault]
    may_hold_no_text: bool


def parse_lines(lines: Sequence[bytes], schema: pl.Schema, likely: pl.Schema, line_bytes_max: int) -> Parsed:
    """Parse lines into columns of `schema`. Reasons of faults: too_long, not_json, wrong_type.

    Fields that are absent or null are null; fields outside the schema are ignored. What is no string becomes text in a
    String column. likely: a schema with stricter dtypes, which is tried first; the frame may come in it.
    """
    buffer = b"\n".join(lines)
    frame, refusal = _strict(buffer, len(lines), likely, line_bytes_max)
    if frame is not None:
        return Parsed(frame, [], _may_hold_no_text(buffer, len(lines)))
    search = _Search(lines, schema, line_bytes_max)
    if refusal == LINES_DIFFER:
        search.drop_long()
        suspects: Sequence[int] = []
    else:
        suspects = _suspects(lines, buffer, refusal)
        search.look(suspects)
    if suspects or search.mended:  # suspects that are good were refused for a stricter dtype alone
        frame = search.parse(likely if search.mended else schema)
    if frame is None:
        search.look(range(len(search.lines)))
        frame = search.parse(schema)
    if frame is None:
        frame = search.isolate()
    return Parsed(frame, sorted(search.faults), _may_hold_no_text(b"\n".join(search.lines), len(search.lines)))


def _occurrences(buffer: bytes, byte: bytes) -> int:
    """How often a byte stands in a buffer; `bytes.count` takes ten times as long where it is frequent."""
    return int(np.count_nonzero(np.frombuffer(buffer, np.uint8) == byte[0]))


def _may_hold_no_text(buffer: bytes, objects: int) -> bool:
    return b"[" in buffer or b"\\" in buffer or _occurrences(buffer, b"{") > objects


def _strict(buffer: bytes, count: int, schema: pl.Schema, line_bytes_max: int) -> tuple[pl.DataFrame | None, str]:
    """`count` lines at once, a row for each, or None and why where any is bad or too long. A blank line or a line break
    inside a line would shift rows: refused too.
    """
    if not count:
        return schema.to_frame(), ""
    start, end = _bounds(buffer)
    if len(start) != count or (end - start).max() > line_bytes_max:
        return None, LINES_DIFFER
    try:
        # As `read_ndjson`, without what that does before it: a fifth of the time of a small buffer.
        frame = pl.scan_ndjson(io.BytesIO(buffer), schema=schema).collect(engine="streaming")
    except _REFUSED as refusal:
        return None, str(refusal)
    return (frame, "") if frame.height == count else (None, "blank lines")


def _bounds(buffer: bytes) -> tuple[Ints, Ints]:
    """Where each line starts and where it ends."""
    breaks = np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord("\n"))
    return np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(buffer)]])


def _suspects(lines: Sequence[bytes], buffer: bytes, refusal: str) -> Sequence[int]:
    """Positions of the lines that a refusal may be about: those that hold the value it names, or are no object at all.

    Where it misses the bad line, or some of several, nothing is lost but time.
    """
    start, end = _bounds(buffer)
    culprit = _CULPRIT.search(refusal)
    if culprit is not None:
        value, kind = culprit.groups()
        text = {"string": f'"{value}"', "array": "[", "object": "{"}.get(kind, value).encode()
        return [int(at) for at in np.unique(np.searchsorted(end, _places(buffer, text)))]
    data = np.frombuffer(buffer + b"\n", np.uint8)
    cut = np.flatnonzero((data[start] != ord("{")) | (data[end - 1] != ord("}")))
    if len(cut):
        return [int(at) for at in cut]
    return next(([at] for at, line in enumerate(lines) if not _is_json(line)), [])


def _places(buffer: bytes, text: bytes) -> Ints:
    """Where the first eight bytes of `text` stand; `bytes.find` is slow where its first byte is frequent."""
    data, head = np.frombuffer(buffer, np.uint8), text[:8]
    ends = max(len(data) - len(head) + 1, 0)
    found = np.ones(ends, np.bool_)
    for nth, byte in enumerate(head):
        found &= data[nth : nth + ends] == byte
    return np.flatnonzero(found)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


class _Search:
    """The lines of one call that are not known to be bad, their positions, and the faults of the others."""

    def __init__(self, lines: Sequence[bytes], schema: pl.Schema, line_bytes_max: int) -> None:
        self.lines: Sequence[bytes] = lines
        self.places = np.arange(len(lines))
        self.faults: list[Fault] = []
        self.mended = False  # whether `lines` are not the given ones any more
        self._schema, self._line_bytes_max = schema, line_bytes_max
        self._fits = {name: _PYTHON[dtype] for name, dtype in schema.items() if dtype in _PYTHON}

    def drop_long(self) -> None:
        long = {at: len(line) for at, line in enumerate(self.lines) if len(line) > self._line_bytes_max}
        limit = f"the limit is {self._line_bytes_max}"
        self._set_aside({at: ("too_long", f"{size} bytes; {limit}") for at, size in long.items()})

    def parse(self, schema: pl.Schema) -> pl.DataFrame | None:
        return self._strict(self.lines, schema)

    def look(self, suspects: Iterable[int]) -> None:
        """Read the lines at these positions of `lines` one by one: bad ones are set aside, others may be rewritten."""
        read = {at: self._inspect(self.lines[at]) for at in suspects}
        rewritten = {at: line for at, (line, _) in read.items() if line is not self.lines[at]}
        if rewritten:
            self.lines, self.mended = [rewritten.get(at, line) for at, line in enumerate(self.lines)], True
        self._set_aside({at: fault for at, (_, fault) in read.items() if fault is not None})

    def isolate(self) -> pl.DataFrame:
        """The lines that parse, where something is refused that `_inspect` does not foresee."""
        frames: list[pl.DataFrame] = []
        bad: dict[int, tuple[str, str]] = {}
        spans = [(0, len(self.lines))]
        while spans:
            start, end = spans.pop()
            frame = self._strict(self.lines[start:end], self._schema)
            if frame is not None:
                frames.append(frame)
            elif end - start == 1:
                bad[start] = ("not_json", "the parser refuses this line")
            else:
                step = 1 if end - start <= LEAF_LINES else (end - start) // 2
                spans += [(at, min(at + step, end)) for at in range(start, end, step)][::-1]
        self._set_aside(bad)
        return pl.concat(frames or [self._schema.to_frame()], rechunk=True)

    def _strict(self, lines: Sequence[bytes], schema: pl.Schema) -> pl.DataFrame | None:
        return _strict(b"\n".join(lines), len(lines), schema, self._line_bytes_max)[0]

    def _set_aside(self, bad: Mapping[int, tuple[str, str]]) -> None:
        if bad:
            self.mended = True
            self.faults += [(int(self.places[at]), *fault) for at, fault in bad.items()]
            stays = np.ones(len(self.lines), np.bool_)
            stays[list(bad)] = False
            self.lines, self.places = list(compress(self.lines, stays.tolist())), self.places[stays]

    def _inspect(self, line: bytes) -> tuple[bytes, tuple[str, str] | None]:
        """The line as it can be parsed (a line break inside it is white space), and what is wrong with it."""
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if _lenient(line) and self._strict([line], self._schema) is not None:
                return line, None
            return line, ("not_json", str(error) if line.strip() else "blank line")
        if not isinstance(value, dict):
            return line, ("wrong_type", f"{_shown(value)} is not an object")
        for name, item in value.items():
            fits = self._fits.get(name)
            if fits is None or (type(item) in fits and (float in fits or not _is_wide(item))):
                continue
            if _repeats_a_name(line) and self._strict([line], self._schema) is not None:
                return line, None
            return line, ("wrong_type", f"{name} {_shown(item)} is not {_NOUNS[self._schema[name]]}")
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
