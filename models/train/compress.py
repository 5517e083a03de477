"""`tidegate compress`: from trained networks to model folders, int8 to ship and fp32 beside it to compare."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import FORMAT
from models.lexicon import lexicon
from models.ngrams import PLACES, ngrams
from models.normalise import normalise
from models.runner import Session
from models.train import texts
from models.train.calibrate import Matrix, calibrate, conformal, probabilities, share
from models.train.card import card_text
from models.train.corpus import CORPUS, Example
from models.train.export import export
from models.train.fit import label_logits
from models.train.network import COLUMNS
from models.train.pretrained import DESCRIBED
from models.train.real import NAMES
from models.train.recipe import trained
from models.train.report import measure
from models.train.shrink import common_pieces, merge, pieces_of, prune_vocabulary
from models.train.smooth import smooth
from models.train.wide import said_by, wide
from schemas.texts import FIELDS

log = logging.getLogger(__name__)

TOKENS_MAX = 256
EVIDENCE_SHARE = 0.25
"""Words that carried at least so much of what the strongest one did are evidence."""
LISTENED = 128


def compress(work: Path, name: str, data: Path | None, corpus: Path = CORPUS) -> Path:
    """WORK/NAME/int8 and WORK/NAME/fp32, both whole model folders, from the network that `train` left in WORK/NAME.

    Errors: UsageError where there is none.
    """
    network, tokenizer = trained(work / name)
    run = json.loads((work / name / "run.json").read_text())
    stage = run["stage"]
    kept, held_out = texts.split(corpus, data)
    words = {domain: lexicon(domain) for domain in FIELDS}
    # Few texts of the corpus or none meet a piece that goes here, so that nothing has to be learned again.
    said, held = ([words[row.domain].mark(normalise(row.text)).text for row in rows] for rows in (kept, held_out))
    keep = common_pieces(tokenizer, stage["common"])
    keep |= pieces_of(tokenizer, [*said, *words["ward"].classes], stage["seen"])
    tokenizer = prune_vocabulary(network.encoder, tokenizer, keep)
    whole, exact = work / name / "int8", work / name / "fp32"
    for folder in (whole, exact):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
    config, parameters = network.encoder.config, sum(value.numel() for value in network.parameters())
    merge(network.encoder)
    smooth(network, tokenizer, [row.text for row in kept[:: max(1, len(kept) // LISTENED)]])
    table, bias = wide(said, kept)
    alone = label_logits(network, tokenizer, held)
    counts = share(alone, said_by(table, bias, held), held_out)
    log.info("of the linear half count: %s", {c.field.name: round(float(counts[c.start]), 2) for c in COLUMNS})
    export(network, (table * counts, bias * counts), exact / "model.onnx", whole / "model.onnx")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    given = [(tokenizer.encode(text).ids[:TOKENS_MAX], ngrams(text).places) for text in held]
    for folder in (whole, exact):
        session = Session((folder / "model.onnx").read_bytes)
        logits = np.stack([session.run(*text).labels for text in given]).astype(np.float64)
        (folder / "labels.json").write_text(json.dumps(_labels(logits, held_out), indent=1) + "\n")
    made_of = _data(run, kept, held_out, corpus, data)
    for folder in (whole, exact):
        write_manifest(folder, name, made_of, {})
    metrics = measure(whole, exact, held_out, data, corpus)
    facts = {
        "shape": f"{config.num_hidden_layers} layers, {config.hidden_size} wide, {config.vocab_size:,} word pieces",
        "parameters": parameters / 1e6,
        "ngrams": PLACES,
        "size_mb": (whole / "model.onnx").stat().st_size / 1e6,
        "tokens_max": TOKENS_MAX,
    }
    (whole / "card.md").write_text(card_text(name, metrics, made_of, facts))
    (work / name / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    write_manifest(whole, name, made_of, headline(metrics))
    log.info("wrote %s and %s", whole, exact)
    return whole


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of all the figures those that fit a manifest: macro-F1 by field, on held-out texts and on those for measuring."""

    def brief(found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: field["macro_f1"] for name, field in found["fields"].items()}

    return {
        "held_out": {domain: brief(found["int8"]) for domain, found in metrics["held_out"].items()},
        "dev": {file: brief(row) for file, rows in metrics["dev"].items() for row in rows if row["system"] == "int8"},
    }


def _labels(logits: Matrix, held_out: list[Example]) -> dict[str, Any]:
    scales, biases = calibrate(logits, held_out)
    p = probabilities(logits * np.array(scales) + np.array(biases))
    domains: dict[str, Any] = {}
    start = 0
    for domain, fields in FIELDS.items():
        cards = []
        for field in fields:
            stop = start + len(field.labels)
            cards.append(
                {
                    "name": field.name,
                    "many": field.many,
                    "labels": field.labels,
                    "scales": [round(value, 4) for value in scales[start:stop]],
                    "biases": [round(value, 4) for value in biases[start:stop]],
                }
            )
            start = stop
        domains[domain] = {"fields": cards, "doubt": round(conformal(p, held_out, domain), 4)}
    return {"domains": domains, "evidence_share": EVIDENCE_SHARE, "tokens_max": TOKENS_MAX}


def _data(
    run: Mapping[str, Any], kept: list[Example], held_out: list[Example], corpus: Path, data: Path | None
) -> dict[str, Any]:
    files = [f"{file}.jsonl" for named in (texts.OURS, texts.REAL) for names in named.values() for file in names]
    stage = run["stage"]
    return {
        "files": {file: hashlib.sha256((corpus / file).read_bytes()).hexdigest() for file in files},
        "real": NAMES if data is not None else {},
        "texts_trained_on": len(kept),
        "texts_held_out": len(held_out),
        "base": DESCRIBED[stage["base"]],
        "after": stage["after"],
        "teachers": stage["teachers"],
        "epochs": stage["recipe"]["epochs"],
        "seed": run["seed"],
        "resumed": run["resumed"],
    }


def write_manifest(folder: Path, name: str, data: dict[str, Any], metrics: dict[str, Any]) -> None:
    """List every file that is there; last, and by renaming, so that a half-written folder never verifies."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    files = {each: (folder / each).read_bytes() for each in names}
    listed = {each: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for each, raw in files.items()}
    draft = folder.with_suffix(".manifest")
    manifest = {"format": FORMAT, "name": name, "files": listed, "data": data, "metrics": metrics}
    draft.write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.move(draft, folder / "manifest.json")
