"""Sounds as networks that look at pictures see them best: loudness over time and pitch, as an ear spaces both."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec

_WINDOW_SECONDS, _SHORTEST_WINDOW = 0.032, 32
_FLOOR = 1e-4  # power below which a band is silent, over that of the data


def window_size(spec: Spec) -> int:
    return max(_SHORTEST_WINDOW, 1 << round(math.log2(max(1, spec.sample_rate) * _WINDOW_SECONDS)))


def filters(bands: int, size: int, rate: int) -> Tensor:
    """(frequencies, bands) triangles of sum 1, evenly spaced in mel = 2595 lg(1 + f / 700 Hz) (O'Shaughnessy 1987). A
    low one may lie between two frequencies, and is then the nearest of them."""
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies[:, None] - low) / (middle - low), (high - frequencies[:, None]) / (high - middle)
    found = torch.minimum(rising, falling).clamp(min=0)
    nearest = F.one_hot((frequencies[:, None] - middle).abs().argmin(0), len(frequencies)).T.float()
    found = torch.where(found.sum(0) > 0, found, nearest)
    return found / found.sum(0)


class LogMel(nn.Module):
    """(B, C, T) -> (B, C, bands, frames), twice as many frames as windows fit, of about unit size."""

    window: Tensor
    filters: Tensor

    def __init__(self, spec: Spec, *, bands: int) -> None:
        super().__init__()
        self.size = window_size(spec)
        window = torch.hann_window(self.size)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        self.register_buffer("filters", filters(bands, self.size, spec.sample_rate or 8000), persistent=False)
        channels, length = spec.shape
        frames = 1 + length // (self.size // 2)
        self.spec = replace(spec, modality="image", shape=(channels, bands, frames))

    def forward(self, x: Tensor) -> Tensor:
        half = self.size // 2
        padded = F.pad(x.flatten(0, 1), (half, half))
        found = torch.stft(padded, self.size, half, window=self.window, center=False, return_complex=True)
        powers = (found.real.square() + found.imag.square()).transpose(1, 2) @ self.filters
        loudness = (powers + _FLOOR).log().transpose(1, 2) / -math.log(_FLOOR) * 2 + 1
        return loudness.unflatten(0, x.shape[:2])
