"""Text as the model sees it, with the way back to the text as the person wrote it."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from models import machine_text

CHARS_MAX: Final = 20_000
"""No text of 256 tokens is this long; what lies beyond is not even looked at."""

# Letters that look like a Latin one. In a word that has Latin letters as well they can only be meant as those.
_LOOK_ALIKE: Final = {
    "a": "\u0430\u03b1", "c": "\u0441\u03f2", "e": "\u0435", "h": "\u04bb", "i": "\u0456\u03b9", "j": "\u0458",
    "o": "\u043e\u03bf", "p": "\u0440\u03c1", "s": "\u0455", "u": "\u03c5", "v": "\u03bd", "x": "\u0445",
    "y": "\u0443\u03b3", "A": "\u0410\u0391", "B": "\u0412\u0392", "C": "\u0421", "E": "\u0415\u0395",
    "H": "\u041d\u0397", "I": "\u0406\u0399", "J": "\u0408", "K": "\u041a\u039a", "M": "\u041c\u039c",
    "N": "\u039d", "O": "\u041e\u039f", "P": "\u0420\u03a1", "S": "\u0405", "T": "\u0422\u03a4",
    "X": "\u0425\u03a7", "Y": "\u04ae\u03a5", "Z": "\u0396",
}  # fmt: skip
_LATIN: Final = {ord(sign): latin for latin, signs in _LOOK_ALIKE.items() for sign in signs}
_STRANGE: Final = "".join(map(chr, _LATIN))
_MIXED: Final = re.compile(
    rf"(?<![A-Za-z{_STRANGE}])(?:[A-Za-z]+[{_STRANGE}]|[{_STRANGE}]+[A-Za-z])[A-Za-z{_STRANGE}]*"
)

_BROKEN_OFF: Final = re.compile(r"(?<=\s)\S{1,64}\Z")
"""The start of a word: alone it may be another one."""

_SPACES: Final = frozenset("\t\n\r\x0b\x0c\x85\u2028\u2029")


@dataclass(frozen=True, slots=True)
class Normalised:
    """`text` for the model; character i of it was `origin[i]` in the original. `cut`: the rest is left out."""

    text: str
    origin: list[int]
    cut: bool


def normalise(original: str) -> Normalised:
    """NFKC character by character, white space to blanks, every control, format and unassigned character removed.

    So is what `machine_text` finds.

    Character by character, because then each output character has exactly one place in the original; the composition
    across characters that is lost is undone by the tokenizer anyway, which strips accents.
    """
    cut = len(original) > CHARS_MAX
    read = _BROKEN_OFF.sub("", original[:CHARS_MAX]) if cut else original
    plain = read.isascii() and read.isprintable()
    text, origin = (read, list(range(len(read)))) if plain else _folded(read)
    for start, end in reversed(machine_text.spans(text)):
        text, origin = text[:start] + text[end:], origin[:start] + origin[end:]
    return Normalised(text, origin, cut)


def _folded(read: str) -> tuple[str, list[int]]:
    characters: list[str] = []
    origin: list[int] = []
    for place, character in enumerate(read):
        if character.isascii():
            folded = character if character.isprintable() else (" " if character in _SPACES else "")
        else:
            folded = "".join(map(_visible, unicodedata.normalize("NFKC", character)))
        characters.append(folded)
        origin.extend([place] * len(folded))
    return _MIXED.sub(lambda word: word[0].translate(_LATIN), "".join(characters)), origin


def _visible(character: str) -> str:
    if character in _SPACES or unicodedata.category(character) == "Zs":
        return " "
    return "" if unicodedata.category(character).startswith("C") else character
