"""Probabilities that are right as often as they say: scores are divided by a temperature, by which held-out labels are
likeliest (Guo et al. 2017). The class that is likeliest stays the same. Figures on the same labels are by one number
better than on others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genai.contract import Terms
from genai.metrics.classification import NUM_BINS

TEMPERATURES = torch.linspace(
    -3, 3, 121
).exp()  # steps of a twentieth; between two of them the likelihood hardly differs


def measured(logits: Tensor, y: Tensor, temperatures: Tensor) -> Terms:
    """Of logits (B, classes), labels (B,) and T temperatures: the means of -ln p (T,), and how far the probability of
    the class that is chosen lies above the share that is right, (T, bins)."""
    right = (logits.argmax(1) == y).to(logits.dtype)
    losses, gaps = [], []
    for temperature in temperatures.to(logits):
        log_p = F.log_softmax(logits / temperature, dim=1)
        losses.append(F.nll_loss(log_p, y))
        p = log_p.amax(1).exp()
        bins = (p * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        gaps.append(logits.new_zeros(NUM_BINS).index_add(0, bins, (p - right) / len(y)))
    return {"losses_at": torch.stack(losses), "gaps_at": torch.stack(gaps)}


def concluded(means: Terms) -> Terms:
    """Log-loss and calibration error (Naeini et al. 2015) of the means of `measured`: where there are several
    temperatures, of the first one "uncalibrated", and of the likeliest of the others, which is among the figures where
    it is one of all."""
    losses, errors = means["losses_at"], means["gaps_at"].abs().sum(1)
    if len(losses) == 1:
        return {"nll_nats": losses[0], "ece": errors[0]}
    best = 1 + int(losses[1:].argmin())
    figures = {"nll_nats": losses[best], "ece": errors[best]}
    figures |= {"nll_nats_uncalibrated": losses[0], "ece_uncalibrated": errors[0]}
    return {**figures, "temperature": TEMPERATURES[best - 1].to(losses)} if len(losses) > 2 else figures
