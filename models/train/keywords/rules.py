"""What the hand-written rules of all domains share: ordered word lists, clauses, and a simple rule for negation."""

import re
from collections.abc import Mapping

Rules = Mapping[str, re.Pattern[str]]
"""Label -> the words that say it; the order is the order in which they are tried."""

_CLAUSE = re.compile(r"[.;!?\n]+(?:\s|$)|\s[\u2013\u2014|/-]+\s|,?\s(?:but|however|although)\s", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|not|nil|non|never|without|neither|nor|isn'?t|wasn'?t|aren'?t|weren'?t|hasn'?t|haven'?t|denies|denied)\b"
    r"(?:[ -]+[\w']+){0,3}[ -]*$",
    re.IGNORECASE,
)


def compiled(words: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    """Each list as one pattern that matches at word starts and word ends."""
    return {label: re.compile(rf"(?<!\w)(?:{each})(?!\w)", re.IGNORECASE) for label, each in words.items()}


def clauses(text: str) -> list[str]:
    """The text cut at its full stops, dashes and turns ("but"), in order, without empty pieces; quotes made plain."""
    plain = text.replace("\u2019", "'").replace("\u2018", "'")
    return [each.strip() for each in _CLAUSE.split(plain) if each.strip()]


def says(words: re.Pattern[str], clause: str) -> bool:
    """Whether one of the words stands in the clause with no negation in the four words before it."""
    return any(not _NEGATION.search(clause[: found.start()]) for found in words.finditer(clause))


def first(rules: Rules, pieces: list[str], default: str) -> str:
    """Label of the first rule that holds in the earliest clause where any does."""
    for piece in pieces:
        for label, words in rules.items():
            if says(words, piece):
                return label
    return default
