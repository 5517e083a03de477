"""Text as the model sees it, with the way back to the text as the person wrote it."""

import unicodedata
from dataclasses import dataclass
from typing import Final

CHARS_MAX: Final = 20_000
"""No text of 256 tokens is this long; what lies beyond is not even looked at."""

_SPACES: Final = frozenset("\t\n\r\x0b\x0c\x85\u2028\u2029")


@dataclass(frozen=True, slots=True)
class Normalised:
    """`text` for the model; character i of it was `origin[i]` in the original. `cut`: the rest is left out."""

    text: str
    origin: list[int]
    cut: bool


def normalise(original: str) -> Normalised:
    """NFKC character by character, white space to blanks, every control, format and unassigned character removed.

    Character by character, because then each output character has exactly one place in the original; the composition
    across characters that is lost is undone by the tokenizer anyway, which strips accents.
    """
    characters: list[str] = []
    origin: list[int] = []
    for place, character in enumerate(original[:CHARS_MAX]):
        if character.isascii():
            folded = character if character.isprintable() else (" " if character in _SPACES else "")
        else:
            folded = "".join(map(_visible, unicodedata.normalize("NFKC", character)))
        characters.append(folded)
        origin.extend([place] * len(folded))
    return Normalised("".join(characters), origin, len(original) > CHARS_MAX)


def _visible(character: str) -> str:
    if character in _SPACES or unicodedata.category(character) == "Zs":
        return " "
    return "" if unicodedata.category(character).startswith("C") else character
