"""Neighbouring values as one position with more channels, and back; of any number of axes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def into_patches(x: Tensor, patch: int) -> Tensor:
    """(B, C, *size) -> (B, C * patch^n, *(size / patch)) for n axes, the values of a channel side by side."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return F.pixel_unshuffle(x, patch)
    axes = range(x.ndim - 2)
    for axis in axes:
        x = x.unflatten(2 + 2 * axis, (-1, patch))
    order = [0, 1, *(3 + 2 * axis for axis in axes), *(2 + 2 * axis for axis in axes)]
    return x.permute(order).flatten(1, 1 + len(axes))


def out_of_patches(h: Tensor, patch: int) -> Tensor:
    """The inverse of `into_patches`."""
    if patch == 1:
        return h
    if h.ndim == 4:
        return F.pixel_shuffle(h, patch)
    n = h.ndim - 2
    h = h.unflatten(1, (-1, *[patch] * n))
    order = [0, 1, *(place for axis in range(n) for place in (2 + n + axis, 2 + axis))]
    h = h.permute(order)
    for axis in range(n):
        h = h.flatten(2 + axis, 3 + axis)
    return h


def cut(h: Tensor, size: tuple[int, ...]) -> Tensor:
    """The first positions of every axis of a map (B, C, *): what rounding up added at its end is gone."""
    for axis, side in enumerate(size, start=2):
        h = h.narrow(axis, 0, side)
    return h
