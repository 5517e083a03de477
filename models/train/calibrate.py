"""Temperatures, thresholds and the band of doubt, chosen on the held-out slice of the training texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
"""(texts, labels)"""

ABSTAIN_SHARE = 0.12
"""This share of the held-out texts, those with a label closest to its threshold, is not acted on for doubt."""

_TEMPERATURES = np.exp(np.linspace(np.log(0.4), np.log(4), 60))
_THRESHOLDS = np.linspace(0.3, 0.7, 41)
THRESHOLD_PULL = 0.3
"""A threshold moves by 0.1 from one half only for 0.03 of F1: with thirty positives, less is chance."""

_PRIOR_TEXTS = 100.0
"""A label's own temperature is pulled to the common one by this many texts; a label has about thirty positives."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One value a label; see `models.reader.LabelCard` for what they mean."""

    temperatures: list[float]
    thresholds: list[float]
    uncertain: list[tuple[float, float]]


def calibrate(logits: Matrix, true: Matrix) -> Calibration:
    """From the logits and the 0/1 truths of the held-out texts, both (texts, labels)."""
    losses = np.array([_loss(logits / temperature, true).mean(0) for temperature in _TEMPERATURES])  # (grid, labels)
    common = losses.mean(1).argmin()
    pull = (np.log(_TEMPERATURES) - np.log(_TEMPERATURES[common])) ** 2 * _PRIOR_TEXTS / len(true) * 0.05
    temperatures = _TEMPERATURES[(losses + pull[:, None]).argmin(0)]
    scaled = logits / temperatures
    p = 1 / (1 + np.exp(-scaled))
    thresholds = np.array([_threshold(p[:, at], true[:, at]) for at in range(true.shape[1])])
    distance = np.abs(scaled - np.log(thresholds / (1 - thresholds))).min(1)  # how close a text's closest label is
    width = float(np.quantile(distance, ABSTAIN_SHARE))
    centre = np.log(thresholds / (1 - thresholds))
    band = np.stack([1 / (1 + np.exp(width - centre)), 1 / (1 + np.exp(-width - centre))], axis=1)
    return Calibration(
        [round(float(value), 4) for value in temperatures],
        [round(float(value), 4) for value in thresholds],
        [(round(float(low), 4), round(float(high), 4)) for low, high in band],
    )


def _loss(logits: Matrix, true: Matrix) -> Matrix:
    return np.logaddexp(0, logits) - true * logits


def _threshold(p: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The best F1, averaged over neighbouring thresholds (no single text decides), and close to one half."""
    f1 = np.array([2 * true[p >= at].sum() / max((p >= at).sum() + true.sum(), 1) for at in _THRESHOLDS])
    smooth = np.convolve(np.pad(f1, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    return float(_THRESHOLDS[(smooth - THRESHOLD_PULL * np.abs(_THRESHOLDS - 0.5)).argmax()])


def expected_calibration_error(p: Matrix, true: Matrix, bins: Sequence[float] = tuple(np.linspace(0, 1, 11))) -> float:
    """Mean gap between the stated probability and what came true, over all labels, by bin (Naeini et al. 2015)."""
    place = np.digitize(p.ravel(), bins[1:-1])
    gaps = [
        (place == at).mean() * abs(p.ravel()[place == at].mean() - true.ravel()[place == at].mean())
        for at in range(len(bins) - 1)
        if (place == at).any()
    ]
    return float(sum(gaps))
