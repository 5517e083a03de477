"""Site words: a name the model may never have seen gets its class written beside it, as a person would explain it."""

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from models.normalise import Normalised
from schemas.errors import UsageError

WORDS_MAX: Final = 3
"""Longest name, in words."""
LINES_MAX: Final = 100_000

_SHIPPED: Final = Path(__file__).parent / "words"
_WORD: Final = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")


class Lexicon:
    """name -> class, names in lower case. `digest`: of what it says, for the record; empty where it says nothing."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self.classes: Final = dict(classes)
        said = "\n".join(f"{name},{kind}" for name, kind in sorted(self.classes.items()))
        self.digest: Final = hashlib.sha256(said.encode()).hexdigest() if said else ""

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """CSV files with the header `word,class`; a later file wins. Errors: UsageError naming file and line."""
        classes: dict[str, str] = {}
        for path in paths:
            try:
                with path.open(encoding="utf-8", newline="") as lines:
                    rows = list(csv.reader(lines))
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                raise UsageError(f"the word list {path} cannot be read ({error}): give a CSV file in UTF-8") from error
            if not rows or rows[0] != ["word", "class"] or len(rows) > LINES_MAX:
                raise UsageError(f"the word list {path} does not begin with `word,class`, or is too long: correct it")
            for at, row in enumerate(rows[1:], 2):
                if len(row) != 2 or not row[1].strip() or not 1 <= len(_WORD.findall(row[0])) <= WORDS_MAX:
                    raise UsageError(f"{path}, line {at}: needs a name of one to {WORDS_MAX} words, a comma, its class")
                classes[" ".join(_WORD.findall(row[0].lower()))] = row[1].strip()
        return cls(classes)

    def mark(self, text: Normalised) -> Normalised:
        """The text with ` (class)` after each name it knows; what is put in belongs to the name's last sign."""
        if not self.classes:
            return text
        pieces, origin, done, next_free = [], [], 0, 0
        words = [(found[0].lower(), found.end()) for found in _WORD.finditer(text.text)]
        for at in range(len(words)):
            if at < next_free:
                continue
            for size in range(min(WORDS_MAX, len(words) - at), 0, -1):
                kind = self.classes.get(" ".join([word for word, _ in words[at : at + size]]))
                if kind is None:
                    continue
                end = words[at + size - 1][1]
                note = f" ({kind})"
                pieces += [text.text[done:end], note]
                origin += text.origin[done:end] + [text.origin[end - 1]] * len(note)
                done, next_free = end, at + size
                break
        pieces.append(text.text[done:])
        return Normalised("".join(pieces), origin + text.origin[done:], text.cut)


def lexicon(domain: str, site: Path | None = None) -> Lexicon:
    """The words that ship for a domain, and the site's own file on top. Errors: UsageError."""
    shipped = _SHIPPED / f"{domain}.csv"
    return Lexicon.read([*([shipped] if shipped.exists() else []), *([site] if site else [])])
