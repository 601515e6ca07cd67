"""Words as padded characters with a mask, data of a kind that no built-in set has; and pictures with captions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch, Spec
from genai.data.source import Dataset, Part, Source
from genai.schema import DataConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
    "generative",
    "adversarial",
    "variational",
    "diffusion",
    "transformer",
    "discriminator",
]


@dataclass(frozen=True)
class Words:
    tokens: Tensor  # (N, T) int64
    mask: Tensor  # (N, T) bool
    streams = False

    def __len__(self) -> int:
        return len(self.tokens)

    def fetch(self, index: Tensor) -> Batch:
        mask = self.mask[index]
        return Batch(self.tokens[index], mask=mask, index=index, weight=mask.sum().float())

    def to(self, device: torch.device) -> Words:
        return Words(self.tokens.to(device), self.mask.to(device))


def open_text(config: DataConfig) -> Dataset:
    length = max(map(len, WORDS))
    rows = torch.tensor([[LETTERS.index(c) for c in word] + [0] * (length - len(word)) for word in WORDS])
    mask = torch.tensor([[i < len(word) for i in range(length)] for word in WORDS])
    held_out = 4
    return Dataset(
        name="probe_text",
        spec=Spec(kind="token", shape=(length,), modality="text", vocab=len(LETTERS)),
        train=Words(rows[:-held_out], mask[:-held_out]),
        valid=Words(rows[-held_out:], mask[-held_out:]),
        fingerprint=hashlib.sha256(" ".join(WORDS).encode()).hexdigest(),
        notes=(),
    )


COLOURS = ("black", "dark grey", "grey", "helles Grün", "灰色", "white")
SHAPES = ("heart", "star", "circle")


def open_captions(config: DataConfig) -> Source:
    """54 pictures (1, 8, 8) of one level of grey; the caption names it and the class, three times the same."""
    said = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES)) for _ in range(3)]
    levels = np.array([colour * 50 for colour, _ in said], np.uint8)
    labels = np.array([shape for _, shape in said], np.int64)
    captions = tuple(f"{COLOURS[colour]} {SHAPES[shape]}" for colour, shape in said)
    x = np.broadcast_to(levels[:, None, None, None], (len(said), 1, 8, 8)).copy()
    return Source("probe_captions", "image", Part(x, labels, captions), classes=len(SHAPES), names=SHAPES)
