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
from models.train.corpus import CORPUS
from models.train.fit import Recipe, Teacher, fit
from models.train.network import EvidenceReader
from models.train.pretrained import pretrained
from models.train.shrink import latin, prune_vocabulary, shallow
from schemas.errors import UsageError
from schemas.texts import FIELDS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of its teacher's encoder a student keeps: the lowest layers, and feed-forward units in each."""

    layers: int
    inner: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One network: what it starts from, what it learns from (an earlier stage, or the labels alone).

    base: where the weights come from in the end. cut: of its teacher's network it starts with so much; otherwise it
    starts from the base. Of the word pieces `compress` leaves the `common` most frequent of English, and those that
    occur in `seen` texts of the corpus or more.
    """

    name: str
    base: str
    recipe: Recipe
    teacher: str | None = None
    cut: Shape | None = None
    common: int = 12_000
    seen: int = 1


STAGES = (
    Stage("default", "minilm", Recipe(epochs=6, rate=1.2e-4), seen=2),
    Stage(
        "small",
        "minilm",
        Recipe(epochs=5, rate=4e-4, layer_decay=1.0, variants=2, soft_share=0.7, hidden_share=0.3),
        teacher="default",
        cut=Shape(layers=2, inner=256),
        common=5_000,
        seen=2,
    ),
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
        teacher, examples = None, kept
        if stage.teacher is not None:
            again = stage.recipe.variants < stage.recipe.epochs
            teacher = Teacher(*trained(out / stage.teacher), stage.recipe.tokens_max, keeps=again)
            examples = kept + texts.unlabelled(corpus, data, seed)
        network, tokenizer = start(stage, jars, teacher)
        log.info("%s: %d texts, %d epochs", stage.name, len(examples), stage.recipe.epochs)
        run = fit(
            network,
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


def start(stage: Stage, jars: Path, teacher: Teacher | None = None) -> tuple[EvidenceReader, Tokenizer]:
    """A stage's network before it has learned anything of its own."""
    if stage.cut is not None:
        assert teacher is not None, f"the stage {stage.name} is cut out of a teacher, and has none"
        network = EvidenceReader(shallow(teacher.network.encoder, stage.cut.layers, stage.cut.inner))
        network.score.load_state_dict(teacher.network.score.state_dict())
        network.look.load_state_dict(teacher.network.look.state_dict())
        return network, Tokenizer.from_str(teacher.tokenizer.to_str())
    encoder, tokenizer = pretrained(stage.base, jars)
    # `compress` prunes further: what does not occur in training can go afterwards.
    tokenizer = prune_vocabulary(encoder, tokenizer, {piece for piece in tokenizer.get_vocab() if latin(piece)})
    return EvidenceReader(encoder), tokenizer


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
