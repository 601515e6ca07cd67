"""The next id of each row from its logits: temperature, top-k, top-p, min-p, and a penalty on what was said."""

from __future__ import annotations

import torch
from torch import Tensor

_COLDEST = 1e-6  # temperature: logits over less may be no numbers


def penalised(logits: Tensor, said: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) with those of ids that were `said` (B, V, booleans) made less likely (Keskar et al. 2019)."""
    return torch.where(said, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def choose(
    logits: Tensor,
    u: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """(B,) ids for logits (B, V), by a number u (B,) of each row, even over [0, 1): temperature 0 takes the likeliest.

    Of the distribution at a temperature there stay, one after the other, the `top_k` likeliest ids, the fewest of these
    that hold a share of `top_p` (Holtzman et al. 2020), and of these the ones of at least `min_p` times the likeliest
    (Nguyen et al. 2024).
    """
    if temperature < _COLDEST:
        return logits.argmax(dim=1)
    logits, ids = logits if temperature == 1 else logits / temperature, None
    if top_k is not None or top_p < 1 or min_p > 0:
        logits, ids = logits.topk(min(top_k or logits.shape[1], logits.shape[1]), dim=1)
    p = logits.softmax(dim=1)
    if top_p < 1:
        p = p * (p.cumsum(dim=1) - p < top_p)
    if min_p > 0:
        p = p * (p >= min_p * p[:, :1])
    reached = p.cumsum(dim=1)
    chosen = torch.searchsorted(reached, u[:, None] * reached[:, -1:], right=True).clamp(max=p.shape[1] - 1)
    return (chosen if ids is None else ids.gather(1, chosen)).squeeze(1)
