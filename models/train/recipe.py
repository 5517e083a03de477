"""The recipe: which network is made from which, on what, for how long. `tidegate train` runs it, top to bottom."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import BertModel

from models.lexicon import lexicon
from models.train import texts
from models.train.corpus import CORPUS, Example
from models.train.fit import Recipe, Teacher, fit
from models.train.network import EvidenceReader
from models.train.pretrained import pretrained
from models.train.shrink import latin, prune_vocabulary, shallow
from schemas.errors import UsageError
from schemas.texts import FIELDS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of an encoder stays: the lowest layers, and feed-forward units in each."""

    layers: int
    inner: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One network: what it starts from, what it learns from (earlier stages, or the labels alone).

    base: where the weights come from in the end. after: the earlier stage with whose network it starts, or with as much
    of it as `cut` says; without one it starts from the base. draw: added to the seed, so that two stages from one base
    differ. Of the word pieces `compress` leaves the `common` most frequent of English, and those that occur in `seen`
    texts of the corpus or more.
    """

    name: str
    base: str
    recipe: Recipe
    teachers: tuple[str, ...] = ()
    cut: Shape | None = None
    draw: int = 0
    common: int = 8_000
    seen: int = 3
    after: str = ""


TEACHER = Recipe(epochs=10, rate=1.5e-4, layer_decay=0.9, batch=32)
TEACHERS = ("bge", "bge-short", "e5-short", "e5")
STUDENT = Recipe(epochs=8, rate=2e-4, batch=32, variants=5, soft_share=0.7)
AGAIN = Recipe(epochs=3, rate=1e-4, layer_decay=0.95, batch=32, variants=1, soft_share=0.5, hidden_share=0.0)
"""A warm restart (Loshchilov and Hutter 2017, arXiv 1608.03983) over other variations of the texts."""
SMALL = Recipe(epochs=6, rate=5e-4, layer_decay=1.0, batch=32, variants=2, soft_share=0.7, hidden_share=0.3)

THIN = Stage(
    "thin",
    "minilm",
    SMALL,
    teachers=("half",),
    after="half",
    cut=Shape(layers=2, inner=256),
    common=5_000,
)

SLIM = Stage(
    "slim",
    "minilm",
    replace(AGAIN, rate=2e-4, layer_decay=1.0),
    teachers=("again",),
    after="thin",
    draw=12,
    common=5_000,
)

STAGES = (
    Stage("bge-short", "bge-small", replace(TEACHER, epochs=6), draw=1),
    Stage("bge", "bge-small", TEACHER, draw=2),
    Stage("e5-short", "e5-small", replace(TEACHER, epochs=6), draw=3),
    Stage("e5", "e5-small", TEACHER, draw=4),
    Stage(
        "narrow",
        "bge-small",
        replace(STUDENT, layer_decay=0.95, hidden_share=0.3),
        teachers=TEACHERS,
        after="bge",
        cut=Shape(layers=12, inner=512),
        draw=11,
    ),
    Stage("again", "bge-small", AGAIN, teachers=("bge", "e5"), after="narrow", draw=12),
    Stage("default", "bge-small", replace(AGAIN, epochs=2), teachers=("bge", "e5"), after="again", draw=13),
    Stage("half", "minilm", STUDENT, teachers=TEACHERS, draw=11),
    THIN,
    SLIM,
    replace(SLIM, name="small", teachers=("default",), after="slim", draw=13),
)
"""What ships. Two encoders of twelve layers, twice each, teach: minutes on a GPU, a day and more on two cores. The
readers go on from `narrow` and `thin` twice, each time with more texts: two hours and a half on two cores."""

QUICK = (
    Stage("default", "minilm", Recipe(epochs=6, rate=1.2e-4)),
    replace(THIN, name="small", teachers=("default",), after="default"),
)
"""Under three hours on two cores: nobody teaches the default, which is half as deep."""

SHIPPED = ("default", "small")
"""The stages that are made into model folders; the others teach."""


def train(
    out: Path,
    data: Path | None,
    jars: Path,
    seed: int,
    only: Sequence[str] = (),
    threads: int = 2,
    corpus: Path = CORPUS,
    device: str = "cpu",
    quick: bool = False,
) -> None:
    """Every stage that is not done yet (or those named): OUT/NAME/network.pt, tokenizer.json, run.json.

    quick: the recipe for two CPU cores. device: as PyTorch names it, "cpu" or "cuda".

    Errors: UsageError, naming what is missing, or a folder in which another recipe or seed was begun.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"PyTorch cannot use the device {device} here ({error}): train with --device cpu") from error
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    kept, _ = texts.split(corpus, data)
    for stage in QUICK if quick else STAGES:
        if only and stage.name not in only:
            continue
        folder = out / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        made = {"stage": json.loads(json.dumps(asdict(stage))), "seed": seed}
        begun = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else made
        if {name: begun.get(name) for name in made} != made:
            raise UsageError(f"{folder} was begun by another recipe or with another seed: give another --out")
        if not (folder / "network.pt").exists():
            (folder / "run.json").write_text(json.dumps({**made, "resumed": 0, "curve": []}) + "\n")
            more = texts.unlabelled(corpus, data, seed) if stage.teachers else []
            network, tokenizer, run = _stage(stage, out, kept + more, jars, seed, device)
            # The network last, so that a folder with one is whole.
            (folder / "run.json").write_text(json.dumps({**made, **run}) + "\n")
            save(folder, network, tokenizer)


def _stage(
    stage: Stage, out: Path, examples: list[Example], jars: Path, seed: int, device: str
) -> tuple[EvidenceReader, Tokenizer, dict[str, Any]]:
    teacher = None
    if stage.teachers:
        networks, tokenizers = zip(*(trained(out / name) for name in stage.teachers), strict=True)
        again = stage.recipe.variants < stage.recipe.epochs
        teacher = Teacher([part.to(device) for part in networks], tokenizers[0], stage.recipe.tokens_max, again)
    torch.manual_seed(seed + stage.draw)
    network, tokenizer = start(stage, out, jars)
    log.info("%s: %d texts, %d epochs", stage.name, len(examples), stage.recipe.epochs)
    run = fit(
        network.to(device),
        tokenizer,
        examples,
        stage.recipe,
        seed + stage.draw,
        out / stage.name / "checkpoint.pt",
        {domain: lexicon(domain) for domain in FIELDS},
        teacher,
    )
    return run.averaged, tokenizer, {"resumed": run.resumed, "curve": run.curve}


def start(stage: Stage, out: Path, jars: Path) -> tuple[EvidenceReader, Tokenizer]:
    """A stage's network before it has learned anything of its own."""
    if stage.after:
        whole, tokenizer = trained(out / stage.after)
        if stage.cut is None:
            return whole, tokenizer
        network = EvidenceReader(shallow(whole.encoder, stage.cut.layers, stage.cut.inner))
        network.score.load_state_dict(whole.score.state_dict())
        network.look.load_state_dict(whole.look.state_dict())
        return network, tokenizer
    encoder, tokenizer = pretrained(stage.base, jars)
    # `compress` prunes further: what does not occur in training can go afterwards.
    tokenizer = prune_vocabulary(encoder, tokenizer, {piece for piece in tokenizer.get_vocab() if latin(piece)})
    return EvidenceReader(encoder), tokenizer


def save(folder: Path, network: EvidenceReader, tokenizer: Tokenizer) -> None:
    """What `trained` gives back."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.dumps(network.encoder.config.to_dict())
    torch.save({"config": config, "weights": network.state_dict()}, folder / "network.pt")


def trained(folder: Path) -> tuple[EvidenceReader, Tokenizer]:
    """The network and the tokenizer of a stage that is done. Errors: UsageError."""
    if not (folder / "network.pt").exists():
        raise UsageError(f"{folder} holds no trained network: run `tidegate train` first")
    state = torch.load(folder / "network.pt", weights_only=True, map_location="cpu")
    config = BertModel.config_class.from_dict(json.loads(state["config"]))
    network = EvidenceReader(BertModel(config, add_pooling_layer=False))
    network.load_state_dict(state["weights"])
    return network.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
