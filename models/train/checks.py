"""What a reader must withstand: does its evidence carry the label, do hostile texts turn it, does it act on prose."""

import csv
import gzip
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.lexicon import Lexicon
from models.train.corpus import Example
from models.train.hostile import KINDS, hostile
from models.train.measure import Read, figures
from schemas.reading import Span


def evidence(read: Read, examples: Sequence[Example], seed: int = 0) -> dict[str, Any]:
    """Share of given labels that go when the words that carried them go, and when as many other words do."""
    rng = random.Random(seed)
    given = gone = gone_at_random = 0
    shares = []
    for row in examples:
        reading = read(row.text)
        for label, spans in reading.evidence.items():
            given += 1
            shares.append(sum(end - start for start, end in spans) / len(row.text))
            gone += label not in read(_without(row.text, spans)).labels
            gone_at_random += label not in read(_without(row.text, _others(row.text, spans, rng))).labels
    return {
        "labels": given,
        "share_of_text": round(float(np.mean(shares or [0])), 3),
        "goes_without_its_evidence": round(gone / max(given, 1), 3),
        "goes_without_as_many_other_words": round(gone_at_random / max(given, 1), 3),
    }


def _others(text: str, spans: Sequence[Span], rng: random.Random) -> list[Span]:
    taken = {place for start, end in spans for place in range(start, end)}
    words, at = [], 0
    for word in text.split(" "):
        if not taken & set(range(at, at + len(word))):
            words.append((at, at + len(word)))
        at += len(word) + 1
    wanted = sum(len(text[start:end].split()) for start, end in spans)
    return rng.sample(words, min(wanted, len(words)))


def _without(text: str, spans: Sequence[Span]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def withstood(read: Read, examples: Sequence[Example], domain: str) -> dict[str, Any]:
    """Kind of hostility -> share of texts whose labels it turns, share it turns and that are acted on, exact match."""
    plain = [read(row.text) for row in examples]
    found: dict[str, Any] = {"plain": {"exact": figures(plain, examples, domain)["exact"]}}
    for kind in KINDS:
        readings = [read(text) for text in hostile([row.text for row in examples], domain, kind)]
        turned = [set(one.labels) != set(other.labels) for one, other in zip(plain, readings, strict=True)]
        acted = [turn and reading.abstain is None for turn, reading in zip(turned, readings, strict=True)]
        found[kind] = {
            "flipped": round(float(np.mean(turned)), 3),
            "flipped_and_acted_on": round(float(np.mean(acted)), 3),
            "exact": figures(readings, examples, domain)["exact"],
        }
    return found


def on_prose(read: Read, data: Path) -> dict[str, Any]:
    """TICO-19, sentences about no patient (all but CMU_1): labels given and acted on; other languages: who abstains."""
    path = data / "text/tico19-medical-parallel/sentences.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    english = [read(row["en"]) for row in rows if not row["id"].startswith("CMU_1:")]
    found: dict[str, Any] = {
        "sentences": len(english),
        "with_a_label": round(float(np.mean([bool(reading.labels) for reading in english])), 4),
        "acted_on": round(float(np.mean([bool(reading.acted_on()) for reading in english])), 4),
    }
    for language in ("es", "ru", "hi"):
        said = [read(row[language]) for row in rows]
        found[f"abstains_{language}"] = round(float(np.mean([reading.abstain is not None for reading in said])), 4)
    return found


def agreement(one: Read, other: Read, texts: Sequence[str]) -> dict[str, Any]:
    """How often two readers give the same labels: over all texts, and over those that the first one acts on."""
    pairs = [(one(text), other(text)) for text in texts]
    same = np.array([set(a.labels) == set(b.labels) for a, b in pairs])
    acted = np.array([a.abstain is None for a, _ in pairs])
    return {
        "texts": len(texts),
        "same_labels": round(float(same.mean()), 4),
        "same_labels_acted_on": round(float(same[acted].mean()), 4) if acted.any() else None,
    }


def with_unknown_names(
    texts: Sequence[Example], classes: Mapping[str, str], rng: random.Random
) -> tuple[list[Example], Lexicon]:
    """Each text that holds a name of the lexicon, with that name replaced by an invented one; and their lexicon."""
    found, invented = [], {}
    for row in texts:
        words = row.text.split(" ")
        places = [at for at, word in enumerate(words) if word.strip(".,;:()").lower() in classes]
        if not places:
            continue
        for at in places:
            bare = words[at].strip(".,;:()")
            name = "".join(rng.choice(pair) for pair in ("zvkq", "aeiou", "lrnm", "oiu", "vxz", "aei")) + rng.choice(
                ("tan", "lix", "dora", "mune", "pril")
            )
            invented[name] = classes[bare.lower()]
            words[at] = words[at].replace(bare, name)
        found.append(Example(" ".join(words), row.domain, row.labels, row.sure, row.world))
    return found, Lexicon(invented)
