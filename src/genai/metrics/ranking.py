"""How good the first of many items in order are, of which some are relevant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PLACES = 10


def figures(hits: NDArray[np.bool_], relevant: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """Of each user: hits (U, K) say which of the first K items are relevant, `relevant` (U,) how many items are. The
    gain of a place falls with the logarithm of its number (Jarvelin & Kekalainen 2002), over the most that there is to
    gain; without relevant items all are 0."""
    first = np.zeros((len(hits), PLACES))
    first[:, : hits.shape[1]] = hits[:, :PLACES]
    discount = 1 / np.log2(np.arange(2, PLACES + 2))
    most = np.append(0.0, np.cumsum(discount))[np.minimum(relevant, PLACES)]
    return {
        f"ndcg_at_{PLACES}": first @ discount / np.maximum(most, discount[-1]),
        f"hit_rate_at_{PLACES}": first.any(1).astype(np.float64),
        f"recall_at_{PLACES}": first.sum(1) / np.maximum(relevant, 1),
    }
