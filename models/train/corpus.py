"""Labelled texts: loading, the held-out slice, and the small untruths that make a reader robust."""

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

from models.train.synonyms import SWAPS


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text; `world` names the writer's setting it came from (6: dull clinical texts)."""

    text: str
    labels: frozenset[str]
    world: int | None


def load(path: Path) -> list[Example]:
    """Every line of a JSON Lines file with `text`, `labels` and optionally `world`; raises on a broken line."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Example(row["text"], frozenset(row["labels"]), row.get("world")) for row in rows]


def hold_out(examples: list[Example], share: float, seed: int, block: int = 6) -> tuple[list[Example], list[Example]]:
    """(kept, held out). Whole runs of `block` neighbours are held out: contrast pairs stand next to each other."""
    blocks = [examples[at : at + block] for at in range(0, len(examples), block)]
    random.Random(seed).shuffle(blocks)
    size = round(share * len(blocks))
    return [row for part in blocks[size:] for row in part], [row for part in blocks[:size] for row in part]


def vary(example: Example, others: list[Example], rng: random.Random) -> Example:
    """The example as another hand might have written it; the labels stay true of the new text."""
    text, labels = example.text, example.labels
    if rng.random() < 0.5:
        text = swap_names(text, rng)
    if rng.random() < 0.25:
        other = rng.choice(others)
        if len(text) + len(other.text) < 500:
            parts = [text, other.text]
            rng.shuffle(parts)
            text, labels = rng.choice((" ", ". ", "\n", " / ")).join(parts), labels | other.labels
    if rng.random() < 0.3:
        text = mistype(text, rng)
    return Example(text, labels, example.world)


def swap_names(text: str, rng: random.Random) -> str:
    """Replace a drug by another of its class, which never changes a label."""
    words = text.split(" ")
    for place, word in enumerate(words):
        bare = word.strip(string.punctuation)
        if bare.lower() in SWAPS and rng.random() < 0.6:
            words[place] = word.replace(bare, rng.choice(SWAPS[bare.lower()]))
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
