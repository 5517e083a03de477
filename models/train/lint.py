"""`tidegate corpus`: is the corpus sound, what is in it, and what do its augmentations look like."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.lexicon import lexicon
from models.train.corpus import CORPUS, Example, load, vary
from models.train.texts import OURS
from schemas.texts import FIELDS

NEAR = 0.5
"""Two texts that share this much of their runs of four words are near-duplicates (Jaccard)."""
RUN = 4
RARE = 40

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a corpus: what, and the texts it is about."""

    what: str
    texts: tuple[str, ...]


def findings(domain: str, dev: Sequence[Path] = (), corpus: Path = CORPUS) -> Iterator[Finding]:
    """Texts that occur twice, and texts nearly the same as one that is for measuring.

    Errors: ValueError where a line is not labelled under the contract.
    """
    examples = ours(domain, corpus)
    seen: dict[str, str] = {}
    for row in examples:
        key = " ".join(row.text.lower().split())
        if key in seen:
            yield Finding("twice in the corpus", (seen[key], row.text))
        seen[key] = row.text
    kept_out = [(text, _runs(text)) for path in dev for text in _texts(path)]
    for row in examples:
        runs = _runs(row.text)
        for text, others in kept_out:
            if len(runs & others) >= NEAR * len(runs | others):
                yield Finding("nearly a text for measuring", (row.text, text))


def ours(domain: str, corpus: Path = CORPUS) -> list[Example]:
    """Every text of a domain that is in the tree."""
    return [row for name in OURS[domain] for row in load(corpus / f"{name}.jsonl", domain)]


def balance(examples: Sequence[Example], domain: str) -> dict[str, Counter[str]]:
    """Field -> label -> texts that carry it; of a field with many labels also how many carry none."""
    counts: dict[str, Counter[str]] = {}
    for field in FIELDS[domain]:
        counted = Counter(label for row in examples for label in row.labels or () if label in field.labels)
        if field.many:
            counted["(no label)"] = sum(not row.labels for row in examples)
        counts[field.name] = counted
    return counts


def augmented(domain: str, seed: int, corpus: Path = CORPUS) -> Iterator[dict[str, Any]]:
    """The corpus as one epoch of training sees it, as JSON rows in the corpus' own form."""
    examples, rng, words = ours(domain, corpus), random.Random(seed), {domain: lexicon(domain)}
    for row in examples:
        other = vary(row, examples, rng, words)
        labels = other.labels or frozenset()
        row_out: dict[str, Any] = {"text": other.text}
        for field in FIELDS[domain]:
            given = [label for label in field.labels if label in labels]
            row_out[field.name] = given if field.many else given[0]
        yield row_out


def _texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return {tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}
