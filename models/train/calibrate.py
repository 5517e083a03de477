"""Probabilities that mean what they say, and how much doubt is too much: from held-out texts, nothing else."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.train.corpus import Example
from models.train.fit import loss_of, targets
from models.train.network import COLUMNS, WIDTH

Matrix = NDArray[np.float64]

COVERAGE = 0.9
_PULL_BIAS, _PULL_SCALE = 2.0, 4.0
"""Pulls towards no change, in units of one text's loss: a label has about thirty held-out texts, and chance in them."""


def calibrate(logits: Matrix, examples: Sequence[Example]) -> tuple[list[float], list[float]]:
    """(scale, bias) of each label: a calibrated logit is `logit * scale + bias`.

    A label of a field with many has its own scale (Platt 1999), the labels of one choice share theirs (vector scaling:
    Guo et al. 2017, arXiv 1706.04599). logits: (texts, WIDTH), from the very file that ships.
    """
    said, wanted = torch.from_numpy(logits), torch.from_numpy(targets(examples)).double()
    log_scale = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)

    def lost() -> Tensor:
        scaled = said * shared(log_scale).exp() + bias
        fit = loss_of(scaled, wanted, torch.ones(len(said))) * len(said)
        return fit + _PULL_SCALE * shared(log_scale).square().sum() + _PULL_BIAS * bias.square().sum()

    _least(lost, [log_scale, bias])
    return shared(log_scale).exp().tolist(), bias.tolist()


def share(deep: Matrix, linear: Matrix, examples: Sequence[Example]) -> Tensor:
    """(WIDTH,): what the linear half's logits count for beside the network's, one figure a field.

    Stacking (Wolpert 1992): of `scale * (deep + share * linear) + bias` the ones that fit held-out texts best. deep,
    linear: (texts, WIDTH).
    """
    first, second = torch.from_numpy(deep), torch.from_numpy(linear)
    wanted = torch.from_numpy(targets(examples)).double()
    of_field = torch.repeat_interleave(torch.arange(len(COLUMNS)), torch.tensor([c.stop - c.start for c in COLUMNS]))
    log_scale = torch.zeros(len(COLUMNS), dtype=torch.float64, requires_grad=True)
    log_share = torch.full((len(COLUMNS),), -1.0, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)

    def lost() -> Tensor:
        both = first + second * log_share.exp()[of_field]
        fit = loss_of(both * log_scale.exp()[of_field] + bias, wanted, torch.ones(len(both))) * len(both)
        return fit + _PULL_SCALE * log_scale.square().sum() + _PULL_BIAS * bias.square().sum()

    _least(lost, [log_scale, log_share, bias])
    return log_share.detach().exp()[of_field].float()


def _least(lost: Callable[[], Tensor], values: list[Tensor]) -> None:
    """Set the values to where the loss is least."""
    optimiser = torch.optim.LBFGS(values, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = lost()
        loss.backward()
        return loss

    optimiser.step(closure)


def shared(value: Tensor) -> Tensor:
    """(WIDTH,): the mean over a choice's labels in each of its columns; a many-field's own are kept."""
    return torch.cat([part if column.field.many else part.mean().expand(len(part)) for column, part in _parts(value)])


def _parts(value: Tensor) -> list[tuple[Any, Tensor]]:
    return [(column, value[column.start : column.stop]) for column in COLUMNS]


def probabilities(logits: Matrix) -> Matrix:
    """(n, WIDTH) calibrated logits -> probabilities, field by field."""
    p = np.empty_like(logits)
    for column in COLUMNS:
        part = logits[:, column.start : column.stop]
        if column.field.many:
            p[:, column.start : column.stop] = 1 / (1 + np.exp(-part))
        else:
            raised = np.exp(part - part.max(1, keepdims=True))
            p[:, column.start : column.stop] = raised / raised.sum(1, keepdims=True)
    return p


def conformal(p: Matrix, examples: Sequence[Example], domain: str, coverage: float = COVERAGE) -> float:
    """The least doubt that must stay in the set, so that with `coverage` the truth of every field is in its set.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511): a text's score is the
    largest `1 - p` of what is true of it, over the domain's fields and labels; the answer is their quantile, with the
    correction for a finite sample. An answer of probability p stays in the set where 1 - p is not above it.
    """
    asked = np.array([row.domain == domain for row in examples])
    true, given = targets(examples)[asked], p[asked]
    doubts = [
        np.where(true[:, c.start : c.stop] > 0.5, 1 - given[:, c.start : c.stop], given[:, c.start : c.stop])
        if c.field.many
        else np.where(true[:, c.start : c.stop] > 0.5, 1 - given[:, c.start : c.stop], 0)
        for c in COLUMNS
        if c.domain == domain
    ]
    worst = np.sort(np.concatenate(doubts, axis=1).max(1))
    rank = min(int(np.ceil((len(worst) + 1) * coverage)), len(worst))
    return float(worst[rank - 1])


def expected_calibration_error(p: Matrix, true: Matrix, bins: int = 10) -> float:
    """Mean gap between the stated probability and what came true, over all entries, by bin (Naeini et al. 2015)."""
    place = np.minimum((p.ravel() * bins).astype(int), bins - 1)
    gaps = [
        (place == at).mean() * abs(p.ravel()[place == at].mean() - true.ravel()[place == at].mean())
        for at in range(bins)
        if (place == at).any()
    ]
    return float(sum(gaps))
