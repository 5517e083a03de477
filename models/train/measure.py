"""Figures over labelled texts, the same for every reader and baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.bool_]
"""(texts, labels): whether a label is given."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Macro-F1 and F1 per label, share of texts whose set of labels is exactly right, false labels per text."""

    macro_f1: float
    f1: tuple[float, ...]
    exact: float
    false_per_text: float


def score(given: Marks, true: Marks) -> Scores:
    """Both (texts, labels). A label that nobody gives and nobody should counts as F1 1."""
    hits = (given & true).sum(0)
    total = given.sum(0) + true.sum(0)
    f1 = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    exact = (given == true).all(1).mean()
    return Scores(float(f1.mean()), tuple(f1.tolist()), float(exact), float((given & ~true).sum(1).mean()))


def marks(rows: Sequence[Sequence[str]], labels: Sequence[str]) -> Marks:
    """Label names, one sequence a text -> (texts, labels)."""
    return np.array([[label in row for label in labels] for row in rows], dtype=np.bool_)
