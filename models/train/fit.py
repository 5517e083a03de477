"""Fine-tuning within a time budget; the returned weights are a running average, which steadies a small corpus."""

import copy
import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from models.normalise import normalise
from models.train.corpus import Example, vary
from models.train.network import EvidenceReader, parameter_groups

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that was chosen, by habit and by the time there was: no search was run over these."""

    epochs: int = 14
    batch: int = 16
    rate: float = 1.2e-4
    layer_decay: float = 0.85
    warmup: float = 0.08
    weight_decay: float = 0.01
    average: float = 0.995
    tokens_max: int = 192
    budget_min: float = 30.0


def encode(tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (b, t); the tokenizer keeps both ends of a text that is cut."""
    tokenizer.enable_truncation(tokens_max)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    parts = tokenizer.encode_batch([normalise(text).text for text in texts])
    return torch.tensor([part.ids for part in parts]), torch.tensor([part.attention_mask for part in parts])


def targets(examples: Sequence[Example], labels: Sequence[str]) -> NDArray[np.float32]:
    """(n, labels) of 0 and 1."""
    return np.array([[label in row.labels for label in labels] for row in examples], dtype=np.float32)


def batches(examples: list[Example], recipe: Recipe, rng: random.Random) -> list[list[Example]]:
    """An epoch of varied examples, neighbours in a batch of similar length so that little is padding."""
    varied = [vary(row, examples, rng) for row in examples]
    varied.sort(key=lambda row: len(row.text) * rng.uniform(0.8, 1.25))
    parts = [varied[at : at + recipe.batch] for at in range(0, len(varied), recipe.batch)]
    rng.shuffle(parts)
    return parts


def fit(
    network: EvidenceReader,
    tokenizer: Tokenizer,
    examples: list[Example],
    labels: Sequence[str],
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
) -> EvidenceReader:
    """Train until the epochs or the budget run out; the schedule follows whichever comes first.

    `checkpoint` gets the averaged weights after every epoch and at the end.
    """
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(
        parameter_groups(network, recipe.rate, recipe.layer_decay), weight_decay=recipe.weight_decay, fused=True
    )
    peaks = [group["lr"] for group in optimiser.param_groups]
    averaged = copy.deepcopy(network).eval()
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch)
    begun, step = time.monotonic(), 0
    for epoch in range(recipe.epochs):
        network.train()
        losses = []
        for part in batches(examples, recipe, rng):
            spent = (time.monotonic() - begun) / (recipe.budget_min * 60)
            progress = max(step / steps, spent)
            if progress >= 1:
                torch.save(averaged.state_dict(), checkpoint)
                return averaged
            scale = min(1.0, (step + 1) / (recipe.warmup * steps), 1 - progress)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
            ids, mask = encode(tokenizer, [row.text for row in part], recipe.tokens_max)
            _, logits = network(ids, mask)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets(part, labels)))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
            _blend(averaged, network, min(recipe.average, step / (step + 10)))
            losses.append(loss.item())
        torch.save(averaged.state_dict(), checkpoint)
        log.info("epoch %d: loss %.4f after %.0f s", epoch + 1, float(np.mean(losses)), time.monotonic() - begun)
    return averaged


@torch.no_grad()
def _blend(averaged: EvidenceReader, network: EvidenceReader, keep: float) -> None:
    for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
        if value.requires_grad:
            mean.lerp_(value, 1 - keep)


@torch.no_grad()
def label_logits(
    network: EvidenceReader, tokenizer: Tokenizer, texts: Sequence[str], tokens_max: int = 256
) -> NDArray[np.float64]:
    """(n, labels), one text at a time as the runtime reads them."""
    network.eval()
    rows = [network(*encode(tokenizer, [text], tokens_max))[1][0].double().numpy() for text in texts]
    return np.stack(rows)
