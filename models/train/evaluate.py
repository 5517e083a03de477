"""`tidegate evaluate`: every reader and every baseline over the same labelled texts, in one table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.lexicon import lexicon
from models.reader import open_reader
from models.train import texts
from models.train.baselines import keywords, majority, tfidf
from models.train.corpus import CORPUS, Example, load
from models.train.measure import Read, confusion, figures
from schemas.texts import FIELDS


@dataclass(frozen=True, slots=True)
class System:
    """Something that reads texts of one domain. mb: what is on disk for it, 0 where that is nothing."""

    name: str
    read: Read
    mb: float = 0.0


def systems(
    domain: str, folders: Mapping[str, Path], baselines: bool, corpus: Path = CORPUS, data: Path | None = None
) -> list[System]:
    """The baselines, trained on what the models were trained on, and each model folder by name."""
    found: list[System] = []
    if baselines:
        kept, held_out = texts.split(corpus, data)
        own = [row for row in [*kept, *held_out] if row.domain == domain]
        found = [
            System("majority", majority(own, domain)),
            System("keywords", keywords(domain)),
            System("TF-IDF + LR", tfidf(own, domain)),
        ]
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        found.append(System(name, open_reader(folder, domain, lexicon(domain)).read, size))
    return found


def evaluate(system: System, examples: Sequence[Example], domain: str) -> dict[str, Any]:
    """`models.train.measure.figures`, with what was taken for what, the median milliseconds a text, the megabytes."""
    readings, took = [], []
    for row in examples:
        begun = time.perf_counter()
        readings.append(system.read(row.text))
        took.append(time.perf_counter() - begun)
    found = figures(readings, examples, domain)
    for field in FIELDS[domain]:
        if not field.many:
            found["fields"][field.name]["confusion"] = confusion(readings, examples, domain, field.name)
    return {"system": system.name, **found, "ms": round(1000 * float(np.median(took)), 2), "mb": round(system.mb, 1)}


def domain_of(path: Path) -> str:
    """Which domain a file of labelled texts is of, by its fields. Errors: ValueError where it is of none."""
    for domain in FIELDS:
        try:
            load(path, domain)
        except (ValueError, KeyError):
            continue
        return domain
    raise ValueError(f"{path} is not labelled under the contract of {', '.join(FIELDS)}: see decisions.md")


def table(rows: Sequence[Mapping[str, Any]], domain: str) -> str:
    """Markdown: one line a system."""
    names = [field.name for field in FIELDS[domain]]
    heads = ["system", *(f"{name} macro-F1 (sure)" for name in names), "exact", "acted on", "exact there", "covered"]
    heads += ["ECE", "ms", "MB"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        fields = [row["fields"][name] for name in names]
        ece = [field["ece"] for field in fields if "ece" in field]
        cells = [row["system"], *(f"{field['macro_f1']:.3f} ({_share(field['accuracy_sure'])})" for field in fields)]
        cells += [_share(row[name]) for name in ("exact", "acted_on", "exact_acted_on", "covered")]
        cells += [f"{np.mean(ece):.3f}" if ece else "-", f"{row['ms']:.2f}", f"{row['mb']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
