"""Fine-tuning and distillation; the returned weights are a running average, which steadies a small corpus."""

import copy
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.lexicon import Lexicon
from models.normalise import normalise
from models.train.corpus import Example, vary
from models.train.network import COLUMNS, WIDTH, EvidenceReader, parameter_groups

log = logging.getLogger(__name__)

UNSURE_WEIGHT = 0.4
SAVE_S = 180.0
HEARD = 64
"""Texts that a teacher reads in one go."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that was chosen, by habit and by the time there was: no search was run over these.

    average: of the running mean of the weights, a step. variants: an epoch's texts are one of so many variations of
    the corpus, so that a teacher's word on them can be kept. soft_share, hidden_share: what the teacher's probabilities
    and its last states weigh in the loss.
    """

    epochs: int
    rate: float
    batch: int = 16
    layer_decay: float = 0.85
    warmup: float = 0.06
    weight_decay: float = 0.01
    average: float = 0.995
    tokens_max: int = 192
    variants: int = 1000
    soft_share: float = 0.5
    hidden_share: float = 0.1


@dataclass
class Teacher:
    """Trained networks of one vocabulary to learn from. What they say is the mean of their logits.

    keeps: whether texts come again, so that what was said of them is kept.
    """

    networks: Sequence[EvidenceReader]
    tokenizer: Tokenizer
    tokens_max: int
    keeps: bool
    said: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def hear(self, texts: Sequence[str]) -> None:
        """Read an epoch's texts at once, in order of length: on a GPU far less work than batch by batch."""
        if not self.keeps:
            self.said.clear()
        told = sorted({text for text in texts if text not in self.said})
        sizes = dict(zip(told, pieces(self.tokenizer, told, self.tokens_max), strict=True))
        new = sorted(told, key=sizes.__getitem__)
        for at in range(0, len(new), HEARD):
            part = new[at : at + HEARD]
            ids, mask = encode(self.tokenizer, part, self.tokens_max, self.networks[0].device)
            hidden = [network.hidden(ids, mask) for network in self.networks]
            pairs = zip(self.networks, hidden, strict=True)
            logits = torch.stack([network.scores(states, mask)[1] for network, states in pairs]).mean(0)
            for text, found, states, size in zip(part, logits, hidden[0], mask.sum(1).tolist(), strict=True):
                self.said[text] = found, states[:size].half()

    def says(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of texts that were heard: label logits (b, WIDTH), and the first network's last states (b, t, d), padded."""
        logits, states = zip(*(self.said[text] for text in texts), strict=True)
        return torch.stack(logits), nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()


def pieces(tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int) -> list[int]:
    """How many word pieces a text has: texts of one size in a batch leave little padding, and letters do not tell."""
    tokenizer.enable_truncation(tokens_max)
    tokenizer.no_padding()
    return [len(part.ids) for part in tokenizer.encode_batch([normalise(text).text for text in texts])]


def encode(tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (b, t)."""
    tokenizer.enable_truncation(tokens_max)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    parts = tokenizer.encode_batch([normalise(text).text for text in texts])
    ids, mask = [part.ids for part in parts], [part.attention_mask for part in parts]
    return torch.tensor(ids).to(device), torch.tensor(mask).to(device)


def targets(examples: Sequence[Example]) -> NDArray[np.float32]:
    """(n, WIDTH): 1 where a label holds, 0 where it does not, NaN in the columns of other domains or of no label."""
    marks = np.full((len(examples), WIDTH), np.nan, dtype=np.float32)
    for at, row in enumerate(examples):
        for column in COLUMNS:
            if column.domain == row.domain and row.labels is not None:
                marks[at, column.start : column.stop] = [label in row.labels for label in column.field.labels]
    return marks


def loss_of(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean over the texts of the summed loss of their fields; wanted: (b, WIDTH) of 0..1, NaN where not asked."""
    total = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
    for column in COLUMNS:
        said, true = logits[:, column.start : column.stop], wanted[:, column.start : column.stop]
        asked = ~true[:, 0].isnan()
        if column.field.many:
            lost = functional.binary_cross_entropy_with_logits(said, true.nan_to_num(), reduction="none").sum(1)
        else:
            lost = functional.cross_entropy(said, true.nan_to_num(), reduction="none")
        total = total + lost * asked
    return (total * weights).mean()


def softened(logits: Tensor, domains: Sequence[str]) -> Tensor:
    """A teacher's logits as targets, (b, WIDTH), NaN in the columns of other domains."""
    soft = torch.empty_like(logits)
    for column in COLUMNS:
        asked = torch.tensor([[domain == column.domain] for domain in domains]).to(logits.device)
        part = logits[:, column.start : column.stop]
        p = part.sigmoid() if column.field.many else part.softmax(1)
        soft[:, column.start : column.stop] = p.where(asked, torch.nan)
    return soft


def batches(
    examples: list[Example],
    recipe: Recipe,
    seed: int,
    epoch: int,
    lexicons: Mapping[str, Lexicon],
    tokenizer: Tokenizer,
) -> list[list[Example]]:
    """An epoch of varied examples, those of a batch of similar size."""
    rng = random.Random(f"{seed} {epoch % recipe.variants}")
    by_domain: dict[str, list[Example]] = {}
    for row in examples:
        by_domain.setdefault(row.domain, []).append(row)
    varied = [vary(row, by_domain[row.domain], rng, lexicons) for row in examples]
    rng = random.Random(f"{seed} {epoch} order")
    sizes = pieces(tokenizer, [row.text for row in varied], recipe.tokens_max)
    places = sorted(range(len(varied)), key=[size * rng.uniform(0.9, 1.1) for size in sizes].__getitem__)
    varied = [varied[place] for place in places]
    parts = [varied[at : at + recipe.batch] for at in range(0, len(varied), recipe.batch)]
    rng.shuffle(parts)
    return parts


class Run:
    """One training run: resumes from `checkpoint` where that file is, and keeps it fresh."""

    def __init__(
        self, network: EvidenceReader, tokenizer: Tokenizer, recipe: Recipe, steps: int, teacher: Teacher | None
    ) -> None:
        self.network, self.tokenizer, self.recipe, self.steps, self.teacher = network, tokenizer, recipe, steps, teacher
        self.averaged = copy.deepcopy(network).eval()
        pairs = zip(self.averaged.parameters(), network.parameters(), strict=True)
        self.learned = tuple(zip(*((mean, value) for mean, value in pairs if value.requires_grad), strict=True))
        # The student's states are compared with the teacher's where both see the same word pieces.
        alike = teacher is not None and teacher.tokenizer.get_vocab() == tokenizer.get_vocab()
        pair = (network, teacher.networks[0]) if teacher is not None and alike else ()
        wide = [part.encoder.config.hidden_size for part in pair]
        self.bridge = nn.Linear(*wide, device=network.device) if wide and recipe.hidden_share else None
        groups = parameter_groups(network, recipe.rate, recipe.layer_decay)
        if self.bridge is not None:
            groups.append({"params": list(self.bridge.parameters()), "lr": recipe.rate * 10})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.step = 0
        self.resumed = 0
        self.curve: list[dict[str, float]] = []
        self.saved = time.monotonic()

    def load(self, checkpoint: Path) -> None:
        """Go on where a run of the same recipe was killed."""
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=self.network.device)
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.bridge is not None:
            self.bridge.load_state_dict(state["bridge"])
        self.step, self.curve, self.resumed = state["step"], state["curve"], state["resumed"] + 1
        log.info("goes on from step %d of %d, from %s", self.step, self.steps, checkpoint)

    def save(self, checkpoint: Path) -> None:
        """By renaming, so that a kill never leaves half a checkpoint."""
        draft = checkpoint.with_suffix(".draft")
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "bridge": self.bridge.state_dict() if self.bridge is not None else None,
            "step": self.step,
            "curve": self.curve,
            "resumed": self.resumed,
        }
        torch.save(state, draft)
        draft.replace(checkpoint)
        self.saved = time.monotonic()

    def learn(self, part: Sequence[Example]) -> Tensor:
        """One step; gives its loss."""
        scale = min((self.step + 1) / (self.recipe.warmup * self.steps), 1 - self.step / self.steps)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * min(1.0, scale)
        loss = self._loss(part)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        blend = get_ema_multi_avg_fn(min(self.recipe.average, self.step / (self.step + 10)))
        blend(self.learned[0], self.learned[1], None)
        return loss.detach()

    def _loss(self, part: Sequence[Example]) -> Tensor:
        texts, recipe, device = [row.text for row in part], self.recipe, self.network.device
        ids, mask = encode(self.tokenizer, texts, recipe.tokens_max, device)
        weights = torch.tensor([1.0 if row.sure else UNSURE_WEIGHT for row in part]).to(device)
        hidden = self.network.hidden(ids, mask)
        _, logits = self.network.scores(hidden, mask)
        hard = loss_of(logits, torch.from_numpy(targets(part)).to(device), weights)
        if self.teacher is None:
            return hard
        said, states = self.teacher.says(texts)
        soft = loss_of(logits, softened(said, [row.domain for row in part]), torch.ones_like(weights))
        loss = (1 - recipe.soft_share) * hard + recipe.soft_share * soft
        if self.bridge is not None:
            apart = (1 - functional.cosine_similarity(self.bridge(hidden), states, dim=-1)) * mask
            loss = loss + recipe.hidden_share * apart.sum() / mask.sum()
        return loss


def fit(
    network: EvidenceReader,
    tokenizer: Tokenizer,
    examples: list[Example],
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    lexicons: Mapping[str, Lexicon],
    teacher: Teacher | None = None,
) -> Run:
    """Train for the recipe's epochs: a finished run, with the averaged network and the loss of each epoch.

    All chance comes from `seed`. A run that is killed and started again goes on from `checkpoint`; its dropout draws
    anew, so that it is as good, and not the same bit for bit.
    """
    epoch_steps = math.ceil(len(examples) / recipe.batch)
    torch.manual_seed(seed)
    run = Run(network, tokenizer, recipe, epoch_steps * recipe.epochs, teacher)
    if checkpoint.exists():
        run.load(checkpoint)
    begun = time.monotonic()
    for epoch in range(run.step // epoch_steps, recipe.epochs):
        network.train()
        torch.manual_seed(seed * 1000 + epoch)
        losses: list[Tensor] = []
        parts = batches(examples, recipe, seed, epoch, lexicons, tokenizer)[run.step - epoch * epoch_steps :]
        if teacher is not None:
            teacher.hear([row.text for part in parts for row in part])
        for part in parts:
            losses.append(run.learn(part))
            if time.monotonic() - run.saved > SAVE_S:
                run.save(checkpoint)
                log.info("step %d of %d, %.0f s", run.step, run.steps, time.monotonic() - begun)
        loss = torch.stack(losses).mean().item()
        run.curve.append({"epoch": epoch + 1, "loss": loss})
        run.save(checkpoint)
        log.info("epoch %d: loss %.4f after %.0f s", epoch + 1, loss, time.monotonic() - begun)
    return run


@torch.no_grad()
def label_logits(
    network: EvidenceReader, tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int = 256
) -> NDArray[np.float64]:
    """(n, WIDTH), one text at a time as the runtime reads them."""
    network.eval()
    device = network.device
    rows = [network(*encode(tokenizer, [text], tokens_max, device))[1][0].double().cpu().numpy() for text in texts]
    return np.stack(rows)
