"""Which texts a reader is trained on, and which are kept aside to calibrate it."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

from models.train.corpus import CORPUS, Example, hold_out, load, load_digests
from models.train.real import digest, real_texts

OURS: Mapping[str, tuple[str, ...]] = {
    "ward": ("ward.train", "ward.plain", "ward.wide", "ward.dull", "ward.more", "ward.further", "ward.names"),
    "roadside": ("roadside.train", "roadside.wide", "roadside.more", "roadside.further"),
    "desk": ("desk.train", "desk.wide", "desk.more", "desk.further", "desk.later"),
}
REAL: Mapping[str, tuple[str, ...]] = {"roadside": ("roadside.real",), "desk": ("desk.real", "desk.real-more")}
HELD_OUT_SHARE = 0.08
UNLABELLED_MAX = 3000
"""Real texts of a domain, beyond the labelled ones, on which only a teacher speaks."""


def labelled(corpus: Path, data: Path | None) -> list[list[Example]]:
    """File by file. data: the folder with the real texts; without it the labels kept by digest cannot be used."""
    files = [load(corpus / f"{name}.jsonl", domain) for domain, names in OURS.items() for name in names]
    if data is not None:
        for domain, names in REAL.items():
            found = real_texts(domain, data)
            files += [load_digests(corpus / f"{name}.jsonl", domain, found) for name in names]
    return files


def split(corpus: Path = CORPUS, data: Path | None = None) -> tuple[list[Example], list[Example]]:
    """(to train on, held out): the same for every seed, so that seeds can be compared."""
    parts = [hold_out(rows, HELD_OUT_SHARE, seed=0) for rows in labelled(corpus, data)]
    return [row for kept, _ in parts for row in kept], [row for _, held in parts for row in held]


def unlabelled(corpus: Path, data: Path | None, seed: int) -> list[Example]:
    """Real texts that nobody labelled; none of the labelled ones, and none that is in a dev file."""
    if data is None:
        return []
    found: list[Example] = []
    for domain, names in REAL.items():
        texts = real_texts(domain, data)
        taken = {row["sha256"] for name in names for row in _lines(corpus / f"{name}.jsonl")}
        taken |= {digest(row["text"]) for row in _lines(data / "decisions" / f"{domain}.real-dev.jsonl")}
        free = sorted(set(texts) - taken)
        chosen = random.Random(seed).sample(free, min(UNLABELLED_MAX, len(free)))
        found += [Example(texts[key], domain, None) for key in chosen]
    return found


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
