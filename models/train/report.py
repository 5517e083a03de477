"""What the shipped folder does on labelled texts, measured through the same Reader that a flow uses."""

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.reader import Reader
from models.train.calibrate import expected_calibration_error
from models.train.corpus import Example
from models.train.measure import marks, score
from schemas.reading import Reading


def truths(examples: Sequence[Example], labels: Sequence[str]) -> Any:
    """(texts, labels) of what the texts are labelled with."""
    return marks([sorted(row.labels) for row in examples], labels)


def figures(reader: Reader, examples: Sequence[Example]) -> dict[str, Any]:
    """Macro-F1 and the rest over one set of texts, rounded for people."""
    readings = [reader.read(row.text) for row in examples]
    true = truths(examples, reader.labels)
    given = marks([reading.labels for reading in readings], reader.labels)
    scores = score(given, true)
    acted = np.array([reading.abstain is None for reading in readings])
    p = np.array([[reading.p[label] for label in reader.labels] for reading in readings])
    return {
        "texts": len(examples),
        "macro_f1": round(scores.macro_f1, 4),
        "f1": {label: round(value, 3) for label, value in zip(reader.labels, scores.f1, strict=True)},
        "all_labels_right": round(scores.exact, 3),
        "false_labels_per_text": round(scores.false_per_text, 3),
        "abstained": round(1 - acted.mean(), 3),
        "all_labels_right_acted_on": round(float((given == true).all(1)[acted].mean()), 3),
        "macro_f1_acted_on": round(score(given[acted], true[acted]).macro_f1, 4),
        "calibration_error": round(expected_calibration_error(p, true.astype(float)), 4),
    }


def false_label_share(reader: Reader, examples: Sequence[Example]) -> dict[str, Any]:
    """Over texts that carry no label: how many get one, and how many get one that is acted on."""
    readings = [reader.read(row.text) for row in examples if not row.labels]
    return {
        "texts": len(readings),
        "with_a_false_label": sum(bool(reading.labels) for reading in readings),
        "with_a_false_label_acted_on": sum(bool(reading.acted_on()) for reading in readings),
        "abstained": sum(reading.abstain is not None for reading in readings),
    }


def agreement(reader: Reader, exact: Reader, texts: Sequence[str]) -> dict[str, Any]:
    """How often two readers give the same labels: over all texts, and over those that the first one acts on."""
    pairs = [(reader.read(text), exact.read(text)) for text in texts]
    same = np.array([one.labels == other.labels for one, other in pairs])
    acted = np.array([one.abstain is None for one, _ in pairs])
    return {
        "texts": len(texts),
        "same_labels": round(float(same.mean()), 4),
        "same_labels_acted_on": round(float(same[acted].mean()), 4),
    }


def evidence_figures(reader: Reader, examples: Sequence[Example], seed: int = 0) -> dict[str, float]:
    """Does the evidence carry the label? Share of given labels that go when its words go, or as many others."""
    rng = random.Random(seed)
    gone = gone_at_random = given = 0
    shares = []
    for row in examples:
        reading = reader.read(row.text)
        for label, spans in reading.evidence.items():
            given += 1
            shares.append(sum(end - start for start, end in spans) / len(row.text))
            gone += label not in reader.read(_without(row.text, spans)).labels
            others = _others(row.text, reading, label, rng)
            gone_at_random += label not in reader.read(_without(row.text, others)).labels
    return {
        "labels": given,
        "share_of_text": round(float(np.mean(shares)), 3),
        "label_goes_without_its_evidence": round(gone / given, 3),
        "label_goes_without_as_many_other_words": round(gone_at_random / given, 3),
    }


def _others(text: str, reading: Reading, label: str, rng: random.Random) -> list[tuple[int, int]]:
    taken = {place for start, end in reading.evidence[label] for place in range(start, end)}
    words, at = [], 0
    for word in text.split(" "):
        if not taken & set(range(at, at + len(word))):
            words.append((at, at + len(word)))
        at += len(word) + 1
    wanted = sum(len(text[start:end].split()) for start, end in reading.evidence[label])
    return rng.sample(words, min(wanted, len(words)))


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def ms_per_text(reader: Reader, words: int, repeats: int = 30) -> float:
    """Median wall time of a text of about so many tokens, in ms."""
    text = " ".join(["pain settled after lunch"] * (words // 4))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        reader.read(text)
        times.append(time.perf_counter() - begun)
    return round(1000 * float(np.median(times)), 2)
