"""Figures over labelled texts, the same for every reader and baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.train.calibrate import expected_calibration_error
from models.train.corpus import Example
from schemas.reading import Reading
from schemas.texts import FIELDS

Read = Callable[[str], Reading]
Marks = NDArray[np.bool_]
"""(texts, labels): whether a label is given, or true."""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Of one label: precision, recall, F1 (1 where nobody gives it and nobody should), how many texts carry it."""

    precision: float
    recall: float
    f1: float
    texts: int


def label_scores(given: Marks, true: Marks) -> list[LabelScore]:
    """One for each column."""
    hits, gave, had = (given & true).sum(0), given.sum(0), true.sum(0)
    return [
        LabelScore(
            hit / got if got else 1.0,
            hit / has if has else 1.0,
            2 * hit / (got + has) if got + has else 1.0,
            int(has),
        )
        for hit, got, has in zip(hits, gave, had, strict=True)
    ]


def marks(rows: Sequence[Sequence[str] | frozenset[str]], labels: Sequence[str]) -> Marks:
    """Label names, one sequence a text -> (texts, labels)."""
    return np.array([[label in row for label in labels] for row in rows], dtype=np.bool_)


def figures(readings: Sequence[Reading], examples: Sequence[Example], domain: str) -> dict[str, Any]:
    """Field by field and over all: what `tidegate evaluate` prints. Labels count also where the reader abstains.

    accuracy: texts whose answer to the field is exactly right. covered: texts whose truth is in the reader's set of
    possible answers (the best guess and what it is unsure of).
    """
    true_rows = [row.labels or frozenset() for row in examples]
    sure = np.array([row.sure for row in examples])
    acted = np.array([reading.abstain is None for reading in readings])
    right = np.ones(len(examples), dtype=bool)
    found: dict[str, Any] = {"texts": len(examples), "fields": {}}
    for field in FIELDS[domain]:
        given, true = marks([reading.labels for reading in readings], field.labels), marks(true_rows, field.labels)
        same = (given == true).all(1)
        right &= same
        scores = label_scores(given, true)
        found["fields"][field.name] = {
            "macro_f1": round(float(np.mean([score.f1 for score in scores])), 4),
            "accuracy": round(float(same.mean()), 4),
            "accuracy_sure": round(float(same[sure].mean()), 4) if sure.any() else None,
            "labels": {
                label: {
                    "p": round(float(score.precision), 3),
                    "r": round(float(score.recall), 3),
                    "f1": round(float(score.f1), 3),
                    "texts": score.texts,
                }
                for label, score in zip(field.labels, scores, strict=True)
            },
        }
        if all(reading.p for reading in readings):
            p = np.array([[reading.p[label] for label in field.labels] for reading in readings])
            found["fields"][field.name]["ece"] = round(expected_calibration_error(p, true.astype(float)), 4)
    found["exact"] = round(float(right.mean()), 4)
    found["acted_on"] = round(float(acted.mean()), 4)
    found["exact_acted_on"] = round(float(right[acted].mean()), 4) if acted.any() else None
    found["covered"] = round(float(np.mean([_covered(*pair) for pair in zip(readings, true_rows, strict=True)])), 4)
    return found


def _covered(reading: Reading, true: frozenset[str]) -> bool:
    return set(reading.labels) ^ true <= set(reading.unsure)


def confusion(readings: Sequence[Reading], examples: Sequence[Example], domain: str, field_name: str) -> dict[str, int]:
    """`true -> given`, how often, of a field with one answer: where they differ, the commonest first."""
    field = next(field for field in FIELDS[domain] if field.name == field_name)
    pairs: dict[str, int] = {}
    for reading, row in zip(readings, examples, strict=True):
        (true,) = [label for label in field.labels if label in (row.labels or ())]
        (given,) = [label for label in field.labels if label in reading.labels]
        if true != given:
            pairs[f"{true} -> {given}"] = pairs.get(f"{true} -> {given}", 0) + 1
    return dict(sorted(pairs.items(), key=lambda pair: -pair[1]))
