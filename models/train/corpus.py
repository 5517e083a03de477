"""Labelled texts: loading, the held-out slice, and the small untruths that make a reader robust."""

import json
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.lexicon import Lexicon
from models.normalise import normalise
from models.train.hostile import inject
from models.train.synonyms import SWAPS
from schemas.texts import FIELDS

_ROAD = re.compile(r"\b[A-Z]{1,3}[- ]?\d{1,3}\b")
_ROAD_FORMS = ("A", "B", "M", "N", "E", "I-", "US-", "SR-", "SH", "NH", "BR-", "R", "RN", "SS")
"""What comes before the number of a road. AP-, DN, HW and the like are left to texts that are for measuring."""
_VOWELS = re.compile(r"(?<=\w)[aeiou]+(?=\w)")

CORPUS = Path(__file__).parents[1] / "corpus"
JOINED_CHARS_MAX = 500
JOINED_SHARE = {"ward": 0.25}
"""Two notes of one patient are one note; two incidents or two headlines are not one report."""
INJECTED_SHARE = 0.18
SHORTENED_SHARE = {"ward": 0.1, "roadside": 0.15, "desk": 0.03}
MARKED_SHARE = 0.6
"""Some texts stay without marks, so that a name no lexicon has is read as well."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text. labels: of all the domain's fields, or None where nobody labelled it and only a teacher speaks.

    sure: whether the contract left the annotator no room; world: the file and the writer it came from.
    """

    text: str
    domain: str
    labels: frozenset[str] | None
    sure: bool = True
    world: str = ""


def load(path: Path, domain: str) -> list[Example]:
    """Every line of a JSON Lines file with `text` and the domain's fields.

    Errors: ValueError naming the line, where it is no JSON, a field is missing or a label is not of the contract.
    """
    return [Example(row["text"], domain, *_judged(row, domain, path, at)) for at, row in _rows(path)]


def load_digests(path: Path, domain: str, texts: Mapping[str, str]) -> list[Example]:
    """As `load`, for labels kept by the digest of a text that is not ours to copy: those that `texts` has."""
    return [
        Example(texts[row["sha256"]], domain, *_judged(row, domain, path, at))
        for at, row in _rows(path)
        if row["sha256"] in texts
    ]


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        return [(at, json.loads(line)) for at, line in enumerate(lines, 1)]


def _judged(row: dict[str, Any], domain: str, path: Path, at: int) -> tuple[frozenset[str], bool, str]:
    labels: set[str] = set()
    for question in FIELDS[domain]:
        said = row.get(question.name)
        answers = said if question.many and isinstance(said, list) else [said]
        if not set(answers) <= set(question.labels):
            raise ValueError(f"{path}, line {at}: {question.name} is {said!r}, none of {', '.join(question.labels)}")
        labels.update(answers)
    return frozenset(labels), bool(row.get("sure", True)), f"{path.stem}/{row.get('world', 0)}"


def hold_out(
    examples: Sequence[Example], share: float, seed: int, block: int = 6
) -> tuple[list[Example], list[Example]]:
    """(kept, held out). Whole runs of `block` neighbours are held out: contrast pairs stand next to each other."""
    blocks = [examples[at : at + block] for at in range(0, len(examples), block)]
    random.Random(seed).shuffle(blocks)
    size = max(1, round(share * len(blocks)))
    return [row for part in blocks[size:] for row in part], [row for part in blocks[:size] for row in part]


def vary(example: Example, others: Sequence[Example], rng: random.Random, lexicons: Mapping[str, Lexicon]) -> Example:
    """The example as another hand might have written it; the labels stay true of the new text."""
    text, labels = example.text, example.labels
    if example.domain == "ward" and rng.random() < 0.5:
        text = swap_names(text, rng)
    if rng.random() < JOINED_SHARE.get(example.domain, 0):
        other = rng.choice(others)
        if labels is not None and other.labels is not None and len(text) + len(other.text) < JOINED_CHARS_MAX:
            parts = [text, other.text]
            rng.shuffle(parts)
            text, labels = rng.choice((" ", ". ", "\n", " / ")).join(parts), labels | other.labels
    if example.domain == "roadside" and rng.random() < 0.5:
        text = other_roads(text, rng)
    if rng.random() < 0.3:
        text = mistype(text, rng)
    if rng.random() < SHORTENED_SHARE[example.domain]:
        text = shorten(text, rng)
    if rng.random() < INJECTED_SHARE:
        text = inject(text, example.domain, rng)
    if rng.random() < MARKED_SHARE:
        text = lexicons[example.domain].mark(normalise(text)).text
    return replace(example, text=text, labels=labels)


def swap_names(text: str, rng: random.Random) -> str:
    """Replace a drug by another of its class, which never changes a label."""
    words = text.split(" ")
    for place, word in enumerate(words):
        bare = word.strip(string.punctuation)
        if bare.lower() in SWAPS and rng.random() < 0.6:
            words[place] = word.replace(bare, rng.choice(SWAPS[bare.lower()]))
    return " ".join(words)


def other_roads(text: str, rng: random.Random) -> str:
    """Each road number by another one, the same for the same."""
    new: dict[str, str] = {}

    def other(found: re.Match[str]) -> str:
        return new.setdefault(found[0], f"{rng.choice(_ROAD_FORMS)}{rng.randint(1, 299)}")

    return _ROAD.sub(other, text)


def shorten(text: str, rng: random.Random) -> str:
    """Some long words as a hurried hand writes them, without their inner vowels: shldr, brkdwn, rmvd."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) >= 5 and word.isalpha() and rng.random() < 0.35:
            words[place] = _VOWELS.sub("", word)
    return " ".join(words)


def mistype(text: str, rng: random.Random) -> str:
    """One slip in about one long word in twelve: two letters swapped, one lost, one doubled."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) < 5 or not word.isalpha() or rng.random() > 0.08:
            continue
        at = rng.randrange(1, len(word) - 2)
        slip = rng.randrange(3)
        if slip == 0:
            words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif slip == 1:
            words[place] = word[:at] + word[at + 1 :]
        else:
            words[place] = word[:at] + word[at] + word[at:]
    return " ".join(words)
