"""Differentiable augmentation of pictures in [-1, 1] for the discriminator's eyes only (DiffAugment, Zhao et al. 2020).

Each is applied to each picture with probability `p`. None mirrors a picture: digits and letters have no mirror images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SHIFT = 1 / 8  # of a side, at most
_HOLE = 1 / 2  # side of the square that is cut out, of the picture's


def augmented(x: Tensor, kinds: Sequence[str], p: float) -> Tensor:
    """x (B, C, H, W) -> the same shape; differentiable in x as often as x is."""
    for kind in kinds:
        x = _BY_NAME[kind](x, torch.rand(len(x), 1, 1, 1, device=x.device) < p)
    return x


def _color(x: Tensor, chosen: Tensor) -> Tensor:
    """Another brightness, saturation (of coloured pictures) and contrast."""

    def draw(low: float, high: float, neutral: float) -> Tensor:
        drawn = low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
        return torch.where(chosen, drawn, neutral)

    x = x + draw(-0.5, 0.5, 0.0)
    if x.shape[1] > 1:
        x = torch.lerp(x.mean(1, keepdim=True), x, draw(0.0, 2.0, 1.0))
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, draw(0.5, 1.5, 1.0))


def _translation(x: Tensor, chosen: Tensor) -> Tensor:
    """Shifted by whole pixels; grey comes in from outside."""
    rows, columns = (_shifted(side, chosen, x.device) for side in x.shape[2:])
    padded = F.pad(x, (1, 1, 1, 1))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _shifted(side: int, chosen: Tensor, device: torch.device) -> Tensor:
    """(B, side) where each row (or column) comes from in a picture with a margin of one."""
    most = int(side * _SHIFT + 0.5)
    shift = torch.randint(-most, most + 1, (len(chosen), 1), device=device) * chosen.view(-1, 1)
    return (torch.arange(1, side + 1, device=device) + shift).clamp(0, side + 1)


def _cutout(x: Tensor, chosen: Tensor) -> Tensor:
    """A square of half the side becomes grey."""
    inside = [_hole(side, len(x), x.device) for side in x.shape[2:]]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :] & chosen
    return x.masked_fill(hole, 0.0)


def _hole(side: int, count: int, device: torch.device) -> Tensor:
    """(B, side) which rows (or columns) a hole covers; its centre may lie at the rim."""
    half = int(side * _HOLE + 0.5) / 2
    centre = torch.randint(0, side + 1, (count, 1), device=device)
    return (torch.arange(side, device=device) + 0.5 - centre).abs() < half


_BY_NAME = {"color": _color, "translation": _translation, "cutout": _cutout}
