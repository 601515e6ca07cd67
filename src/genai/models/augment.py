"""Differentiable augmentation of pictures in [-1, 1] for the discriminator's eyes only (DiffAugment, Zhao et al. 2020).

Each is applied to each picture with probability `p`. None mirrors a picture: digits and letters have no mirror images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SHIFT = 1 / 8  # of a side, at most
_HOLE = 1 / 2  # side of the square that is cut out, of the picture's


Augmentation = Callable[[Tensor], Tensor]


def drawn(kinds: Sequence[str], p: float, like: Tensor) -> Augmentation:
    """One augmentation for each picture of a batch (B, C, H, W) such as `like`: it changes every batch of that shape it
    is given alike, and is differentiable as often as its input is."""
    steps = [_BY_NAME[kind](like, torch.rand(len(like), 1, 1, 1, device=like.device) < p) for kind in kinds]

    def augmented(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return augmented


def _color(like: Tensor, chosen: Tensor) -> Augmentation:
    """Another brightness, saturation (of coloured pictures) and contrast."""

    def draw(low: float, high: float, neutral: float) -> Tensor:
        uniform = torch.rand(len(like), 1, 1, 1, device=like.device, dtype=like.dtype)
        return torch.where(chosen, low + (high - low) * uniform, neutral)

    brightness, saturation, contrast = draw(-0.5, 0.5, 0.0), draw(0.0, 2.0, 1.0), draw(0.5, 1.5, 1.0)

    def augmented(x: Tensor) -> Tensor:
        x = x + brightness
        if x.shape[1] > 1:
            x = torch.lerp(x.mean(1, keepdim=True), x, saturation)
        return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)

    return augmented


def _translation(like: Tensor, chosen: Tensor) -> Augmentation:
    """Shifted by whole pixels; grey comes in from outside."""
    rows, columns = (_shifted(side, chosen, like.device) for side in like.shape[2:])
    batch = torch.arange(len(like), device=like.device)[:, None, None]

    def augmented(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augmented


def _shifted(side: int, chosen: Tensor, device: torch.device) -> Tensor:
    """(B, side) where each row (or column) comes from in a picture with a margin of one."""
    most = int(side * _SHIFT + 0.5)
    shift = torch.randint(-most, most + 1, (len(chosen), 1), device=device) * chosen.view(-1, 1)
    return (torch.arange(1, side + 1, device=device) + shift).clamp(0, side + 1)


def _cutout(like: Tensor, chosen: Tensor) -> Augmentation:
    """A square of half the side becomes grey."""
    rows, columns = (_hole(side, len(like), like.device) for side in like.shape[2:])
    hole = rows[:, None, :, None] & columns[:, None, None, :] & chosen
    return lambda x: x.masked_fill(hole, 0.0)


def _hole(side: int, count: int, device: torch.device) -> Tensor:
    """(B, side) which rows (or columns) a hole covers; its centre may lie at the rim."""
    size = int(side * _HOLE + 0.5)
    first = torch.randint(0, side + 1 - size % 2, (count, 1), device=device) - size // 2
    place = torch.arange(side, device=device) - first
    return (place >= 0) & (place < size)


_BY_NAME = {"color": _color, "translation": _translation, "cutout": _cutout}
