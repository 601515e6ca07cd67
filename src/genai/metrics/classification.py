"""How good predicted classes are: as scikit-learn defines each figure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # of equal width, of the calibration error
_LEAST_P = 1e-15

Values = NDArray[np.floating]
Labels = NDArray[np.integer]


def confusion(chosen: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """(classes, classes): how many of the class of a row were taken for that of a column."""
    return np.bincount(labels * classes + chosen, minlength=classes * classes).reshape(classes, classes)


def figures(scores: Values, labels: Labels, *, probable: bool) -> dict[str, float]:
    """Of scores (N, classes), the largest of which is the class that is chosen, for labels (N,).

    Recall, F1 and AUC are means over the classes that there are, each against the rest, of two classes F1 and AUC those
    of the second. With probabilities also the log-loss in nats, Brier's score (the sum over classes, of two half of it:
    the error of the one's probability), and the expected calibration error over bins of the chosen class's probability
    (Guo et al. 2017).
    """
    classes = scores.shape[1]
    chosen = scores.argmax(1)
    table = confusion(chosen, labels, classes)
    right, real, taken = table.diagonal(), table.sum(1), table.sum(0)
    there = real > 0
    f1 = 2 * right / np.maximum(real + taken, 1)
    found = {
        "accuracy": float(right.sum() / len(labels)),
        "balanced_accuracy": float((right[there] / real[there]).mean()),
        "f1": float(f1[1] if classes == 2 else f1[there | (taken > 0)].mean()),
    }
    areas = [_area(scores[:, c], labels == c) for c in ([1] if classes == 2 else range(classes))]
    known = [area for area in areas if area is not None]
    if known:
        found["auc"] = float(np.mean(known))
    if probable:
        own = scores[np.arange(len(labels)), labels]
        found["nll_nats"] = float(-np.log(np.maximum(own, _LEAST_P)).mean())
        found["brier"] = float(((scores**2).sum(1) - 2 * own + 1).mean()) / (2 if classes == 2 else 1)
        found["ece"] = _calibration_error(scores.max(1), chosen == labels)
    return found


def _area(scores: Values, positive: NDArray[np.bool_]) -> float | None:
    """Under the ROC curve: how often a positive one scores more than another, ties by half; None where one kind is
    missing."""
    count = int(positive.sum())
    if count in (0, len(scores)):
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def _calibration_error(p: Values, right: NDArray[np.bool_]) -> float:
    bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, p - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(p))
