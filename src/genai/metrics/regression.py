"""How good predicted numbers are: as scikit-learn defines each figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]


def middle(quantiles: Sequence[float]) -> int:
    """Which of the numbers that are given for quantiles stands for all."""
    return min(range(len(quantiles)), key=lambda i: abs(quantiles[i] - 0.5), default=0)


def figures(predicted: Values, real: Values) -> dict[str, float]:
    """Of numbers (N,) for real ones (N,). Where nothing varies r2 is 1 of all that is right, else 0."""
    rest = real - predicted
    mse = float((rest**2).mean())
    r2 = 1 - mse / float(real.var()) if np.ptp(real) > 0 else float(mse == 0)
    return {"mae": float(np.abs(rest).mean()), "rmse": mse**0.5, "mse": mse, "r2": r2}


def figures_of_quantiles(predicted: Values, real: Values, levels: Sequence[float]) -> dict[str, float]:
    """The pinball loss of quantiles (N, Q), and how many of the real numbers lie from the lowest to the highest."""
    rest, share = real[:, None] - predicted, np.asarray(levels)
    inside = (predicted[:, 0] <= real) & (real <= predicted[:, -1])
    return {
        "pinball": float(np.maximum(share * rest, (share - 1) * rest).mean()),
        "share_between_quantiles": float(inside.mean()),
    }
