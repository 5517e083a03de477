"""The linear half of a reader: logistic regression over hashed n-grams."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.ngrams import PLACES, ngrams
from models.train.corpus import Example
from models.train.fit import UNSURE_WEIGHT, targets
from models.train.network import COLUMNS, WIDTH

NEVER = -4.0
"""The logit of an answer that no text has."""


def wide(marked: Sequence[str], examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(table (PLACES, WIDTH), bias (WIDTH,)): a text's logits are the bias and its n-grams' rows over sqrt(n).

    marked: the examples' texts, normalised and with class marks, as the runtime reads them. Rare n-grams weigh more, by
    their inverse document frequency, which is part of the table.
    """
    table, bias = np.zeros((PLACES, WIDTH)), np.full(WIDTH, NEVER)
    wanted, trust = targets(examples), np.array([1.0 if row.sure else UNSURE_WEIGHT for row in examples])
    for domain in dict.fromkeys(column.domain for column in COLUMNS):
        columns = [column for column in COLUMNS if column.domain == domain]
        whole = slice(columns[0].start, columns[-1].stop)
        rows = np.flatnonzero(~np.isnan(wanted[:, whole.start]))
        if not len(rows):
            continue
        features = _features([marked[at] for at in rows])
        rarity = np.log((1 + len(rows)) / (1 + features.getnnz(0))) + 1  # (PLACES,)
        features = features @ sparse.diags(rarity)
        for column in columns:
            said = wanted[rows, column.start : column.stop]
            places = np.arange(column.start, column.stop)
            if not column.field.many:
                weights, bias[places] = _fitted(features, said.argmax(1), len(places), trust[rows])
                table[:, places] = weights.T
                continue
            for place, holds in zip(places, said.T, strict=True):
                weights, rest = _fitted(features, holds.astype(int), 2, trust[rows])
                table[:, place], bias[place] = weights[1] - weights[0], rest[1] - rest[0]
        table[:, whole] *= rarity[:, None]
    return torch.from_numpy(table).float(), torch.from_numpy(bias).float()


def said_by(table: Tensor, bias: Tensor, marked: Sequence[str]) -> NDArray[np.float64]:
    """(texts, WIDTH): the logits of such a table."""
    return np.asarray(_features(marked) @ table.double().numpy() + bias.double().numpy(), dtype=np.float64)


def _fitted(
    features: sparse.csr_matrix, answers: NDArray[np.intp], count: int, trust: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (count, PLACES) and biases (count,) of the possible answers, 0 to `count` - 1."""
    weights, rest, found = np.zeros((count, PLACES)), np.full(count, NEVER), np.unique(answers)
    if len(found) == 1:
        rest[found] = 0
        return weights, rest
    # Rare answers count as much as common ones; weak pull, because features are many and each says little.
    model = LogisticRegression(C=20, class_weight="balanced", max_iter=300).fit(features, answers, trust)
    if len(found) == 2:  # one row, for the second answer
        weights[found], rest[found] = np.outer([-0.5, 0.5], model.coef_), np.array([-0.5, 0.5]) * model.intercept_
    else:
        weights[found], rest[found] = model.coef_, model.intercept_
    return weights, rest


def _features(marked: Sequence[str]) -> sparse.csr_matrix:
    """(texts, PLACES): how often an n-gram occurs, over the square root of how many the text has."""
    places, values, ends = [], [], [0]
    for text in marked:
        found, counts = np.unique(ngrams(text).places, return_counts=True)
        places.append(found)
        values.append(counts / np.sqrt(counts.sum()))
        ends.append(ends[-1] + len(found))
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(places), ends), (len(marked), PLACES))
