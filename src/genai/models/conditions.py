"""What a denoiser is told besides the noise: a class, a text, or both, each of which may be left out of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genai.contract import Spec
from genai.nets.attention import Attention, heads_of

LABEL, PROMPT = "label", "prompt"
_HEAD = 32  # numbers of a head of attention
_BEGINNINGS, _FACTOR, _PRIME = 1 << 14, 257, (1 << 31) - 1  # of words, by their hash
Cond = Mapping[str, Tensor]


@dataclass(frozen=True)
class Told:
    """A vector (B, features), and the tokens of a text (B, L, context) with the mask (B, L) of those there are."""

    vector: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None


class TextEncoder(nn.Module):
    """Ids (B, L), filled up with 0 -> tokens (B, L, width) and the mask (B, L) of those there are: a Transformer over
    bytes that is trained with the model. A text of no bytes is one token. Another text encoder is another module of
    these inputs and outputs.

    Beside a byte stands how its word began, so that from the first step on words differ and those of one stem share
    (Bojanowski et al. 2017): by bytes alone, 50 passes over 1,700 captions had taught it hardly any.
    """

    def __init__(self, *, spec: Spec, width: int, layers: int) -> None:
        super().__init__()
        self.embed, self.beginnings = nn.Embedding(spec.vocab, width), nn.Embedding(_BEGINNINGS, width)
        self.place = nn.Parameter(0.3 * torch.randn(spec.shape[0], width))
        heads = heads_of(width, _HEAD)
        self.attention = nn.ModuleList(Attention(width=width, heads=heads) for _ in range(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(layers))
        self.out = nn.RMSNorm(width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        h, mask = self.embed(ids) + self.beginnings(beginnings(ids)) + self.place[: ids.shape[1]], ids > 0
        mask[:, 0] = True
        for norm, attention, mlp in zip(self.norms, self.attention, self.mlps, strict=True):
            h = h + attention(norm(h), mask=mask)
            h = h + mlp(h)
        return self.out(h), mask


def shortest(ids: Tensor) -> Tensor:
    """(B, L) without what no text of the batch needs, on a CPU, where short texts in the room of the longest took most
    of the time; elsewhere it would wait for the device. In steps of eight, so that there are few shapes."""
    if ids.device.type != "cpu":
        return ids
    longest = int((ids > 0).any(0).sum())
    return ids[:, : max(8, -(-longest // 8) * 8)]


def beginnings(ids: Tensor) -> Tensor:
    """(B, L) of bytes: a hash of the word up to each, in small letters; 0 between words. A character beyond ASCII is a
    word of its own, with the letters that follow it: scripts without blanks."""
    lower = torch.where((ids >= ord("A")) & (ids <= ord("Z")), ids + 32, ids)
    is_letter = ((lower >= ord("a")) & (lower <= ord("z"))) | ((ids >= ord("0")) & (ids <= ord("9"))) | (ids >= 0x80)
    hashes, word = [], torch.zeros_like(ids[:, 0])
    for byte, inside, first in zip(lower.unbind(1), is_letter.unbind(1), (ids >= 0xC0).unbind(1), strict=True):
        word = torch.where(first, byte, word * _FACTOR + byte) % _PRIME * inside
        hashes.append(word)
    return torch.stack(hashes, dim=1) % _BEGINNINGS


class Conditions(nn.Module):
    """Labels and texts -> what a network of `features` is told of them. What a sample is not told is the class behind
    the last one, and a text of zeros."""

    def __init__(self, *, spec: Spec, features: int, text_width: int, text_layers: int) -> None:
        super().__init__()
        self.classes = spec.label_classes
        self.embed = nn.Embedding(self.classes + 1, features) if self.classes else None
        self.text, self.pooled, self.prompt_length = None, None, spec.prompt_length
        if PROMPT in spec.cond:
            self.text = TextEncoder(spec=spec.cond[PROMPT], width=text_width, layers=text_layers)
            self.pooled = nn.Linear(text_width, features)
        self.names = [name for name in (LABEL, PROMPT) if name in spec.cond]

    def forward(self, cond: Cond) -> Told | None:
        vector, context, mask = None, None, None
        if self.embed is not None:
            vector = self.embed(cond[LABEL])
        if self.text is not None and self.pooled is not None:
            context, mask = self.text(shortest(cond[PROMPT]))
            there = mask[..., None].to(context.dtype)
            mean = self.pooled((context * there).sum(1) / there.sum(1))
            vector = mean if vector is None else vector + mean
        return None if vector is None else Told(vector, context, mask)

    def nothing(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """What so many samples are told that nothing is told of."""
        found = {}
        if LABEL in self.names:
            found[LABEL] = torch.full((count,), self.classes, device=device)
        if PROMPT in self.names:
            found[PROMPT] = torch.zeros(count, self.prompt_length, dtype=torch.int64, device=device)
        return found

    def filled(self, cond: Cond, count: int, device: torch.device) -> dict[str, Tensor]:
        """The conditions of `count` samples, with nothing for those that are not given."""
        return {name: cond.get(name, nothing) for name, nothing in self.nothing(count, device).items()}

    def dropped(self, cond: Cond, p: float) -> dict[str, Tensor]:
        """Each sample is told nothing with probability p; with two conditions it also lacks either with probability
        p."""
        if not self.names:
            return {}
        count, device = len(cond[self.names[0]]), cond[self.names[0]].device
        nothing = self.nothing(count, device)
        lacks = torch.rand(1 + len(nothing), count, device=device) < p
        found = {}
        for number, name in enumerate(self.names, start=1):
            drop = lacks[0] | lacks[number] if len(nothing) > 1 else lacks[0]
            found[name] = torch.where(drop.view(-1, *[1] * (cond[name].ndim - 1)), nothing[name], cond[name])
        return found
