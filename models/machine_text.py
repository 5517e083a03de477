"""Stretches of a text that no person writes in a note, a report or a headline: a reader does not look at them.

They are how a text can try to steer a model: objects in JSON, names of labels as they stand in the contract, the same
words over and over. What is left out is left out for reading only; a record's digest is of the text as it came.
"""

import re
from typing import Final

from schemas.texts import FIELDS

_LABELS: Final = sorted({label for fields in FIELDS.values() for field in fields for label in field.labels})
_CODES: Final = "|".join(label for label in _LABELS if "_" in label)
_ANY: Final = "|".join(_LABELS)

_QUESTIONS: Final = "|".join({field.name for fields in FIELDS.values() for field in fields} | {"labels?", "answer"})

_PATTERNS: Final = (
    # An answer as the reader itself would give it; other objects may be a report from a machine.
    re.compile(rf'\{{(?=[^{{}}]*"(?:{_QUESTIONS})"\s*:\s*\[?\s*"(?:{_ANY})")[^{{}}]*\}}'),
    # Four names in a row are a list of the contract; "rain, debris, flooding" may be a report.
    re.compile(rf"\b(?:{_ANY})(?:\s*[,;|/]\s*(?:{_ANY})){{3,}}\b", re.IGNORECASE),
    re.compile(rf"\b(?:{_CODES})\b(?:\s*[=:]\s*(?:true|false|yes|no|[01])\b)?", re.IGNORECASE),
    # One to four words, ten times and more.
    re.compile(r"\b(\w+(?:\W+\w+){0,3}?)(?:\W+\1\b){9,}", re.IGNORECASE),
)


def spans(text: str) -> list[tuple[int, int]]:
    """Where such stretches are: [start, end), in order, apart from each other."""
    found = sorted(match.span() for pattern in _PATTERNS for match in pattern.finditer(text))
    apart: list[tuple[int, int]] = []
    for start, end in found:
        if apart and start < apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart
