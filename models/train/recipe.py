"""The recipe: which network is made from which, on what, for how long. `tidegate train` runs it, top to bottom."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertModel

from models.lexicon import lexicon
from models.train import texts
from models.train.corpus import CORPUS, Example
from models.train.fit import Recipe, Teacher, fit
from models.train.network import EvidenceReader
from models.train.pretrained import pretrained
from models.train.shrink import common_pieces, latin, narrow, pieces_of, prune_vocabulary
from schemas.errors import UsageError
from schemas.texts import FIELDS

log = logging.getLogger(__name__)

COMMON_SMALL = 9000
SMALL = {"layers": 3, "width": 192, "heads": 6, "inner": 768}


@dataclass(frozen=True, slots=True)
class Stage:
    """One network: what it starts from, what it learns from (an earlier stage, or the labels alone).

    small: its base gives the word vectors only. shipped: `compress` makes a model folder of it.
    """

    name: str
    base: str
    recipe: Recipe
    teacher: str | None = None
    small: bool = False
    shipped: bool = True


STAGES = (
    Stage("default", "minilm", Recipe(epochs=6, rate=1.2e-4)),
    Stage("small", "minilm", Recipe(epochs=16, rate=8e-4, layer_decay=1.0, variants=2), teacher="default", small=True),
)


def train(
    out: Path,
    data: Path | None,
    jars: Path,
    seed: int,
    only: Sequence[str] = (),
    threads: int = 2,
    corpus: Path = CORPUS,
) -> None:
    """Every stage that is not done yet (or those named): OUT/NAME/network.pt, tokenizer.json, run.json.

    Errors: UsageError, naming what is missing.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(threads)
    kept, _ = texts.split(corpus, data)
    for stage in STAGES:
        folder = out / stage.name
        if (only and stage.name not in only) or (folder / "network.pt").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        encoder, tokenizer = start(stage, kept, jars)
        teacher, examples = None, kept
        if stage.teacher is not None:
            network, of_teacher = trained(out / stage.teacher)
            teacher = Teacher(network.eval(), of_teacher, stage.recipe.tokens_max)
            examples = kept + texts.unlabelled(corpus, data, seed)
        log.info("%s: %d texts, %d epochs", stage.name, len(examples), stage.recipe.epochs)
        run = fit(
            EvidenceReader(encoder),
            tokenizer,
            examples,
            stage.recipe,
            seed,
            folder / "checkpoint.pt",
            {domain: lexicon(domain) for domain in FIELDS},
            teacher,
        )
        save(folder, run.averaged, tokenizer)
        (folder / "run.json").write_text(json.dumps({"seed": seed, "resumed": run.resumed, "curve": run.curve}) + "\n")


def start(stage: Stage, kept: list[Example], jars: Path) -> tuple[BertModel, Tokenizer]:
    """A stage's encoder before it has learned anything."""
    encoder, tokenizer = pretrained(stage.base, jars)
    vocabulary = tokenizer.get_vocab()
    if not stage.small:  # `compress` prunes it further: what does not occur in training can go afterwards
        return encoder, prune_vocabulary(encoder, tokenizer, {piece for piece in vocabulary if latin(piece)})
    keep = common_pieces(tokenizer, COMMON_SMALL) | pieces_of(tokenizer, [row.text for row in kept])
    tokenizer = prune_vocabulary(encoder, tokenizer, keep)
    return narrow(encoder, **SMALL), tokenizer


def save(folder: Path, network: EvidenceReader, tokenizer: Tokenizer) -> None:
    """What `trained` gives back; the network last, so that a folder with one is whole."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.dumps(network.encoder.config.to_dict())
    torch.save({"config": config, "weights": network.state_dict()}, folder / "network.pt")


def trained(folder: Path) -> tuple[EvidenceReader, Tokenizer]:
    """The network and the tokenizer of a stage that is done. Errors: UsageError."""
    if not (folder / "network.pt").exists():
        raise UsageError(f"{folder} holds no trained network: run `tidegate train` first")
    state = torch.load(folder / "network.pt", weights_only=True)
    config = BertModel.config_class.from_dict(json.loads(state["config"]))
    network = EvidenceReader(BertModel(config, add_pooling_layer=False))
    network.load_state_dict(state["weights"])
    return network.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
