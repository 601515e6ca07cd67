"""Transformer that reads a text whole (Vaswani et al. 2017; Devlin et al. 2019), or two by the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import ReaderConfig
from genai.nets.attention import Attention, angles
from genai.nets.family import Family
from genai.nets.gpt import Norm

_PAIRS = 1 << 15  # buckets that pairs of neighbours are hashed into
_FACTORS, _PRIME = (40_503, 65_599), (1 << 31) - 1


class Block(nn.Module):
    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.width
        self.norm, self.attention = Norm(), Attention(width=width, heads=config.heads)
        self.feed = nn.Sequential(Norm(), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.feed[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.feed[-1].bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, there: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        h = h + self.attention(self.norm(h), mask=there, rotation=rotation)
        return h + self.feed(h)


class Encoder(nn.Module):
    """Ids (B[, 2], T), filled up with spec.opening -> (B, features).

    Beside an id stands the pair that it makes with the one before, by its hash: without it a network had to learn from
    few texts what a table of pairs says at once (Joulin et al. 2017). What is read is weighed, at first evenly. Of two
    texts both are seen, their product and their difference (Conneau et al. 2017).
    """

    def __init__(
        self, *, spec: Spec, config: ReaderConfig, outputs: int | None = None, factor: int | None = None
    ) -> None:
        super().__init__()
        if spec.modality != "text":
            raise ConfigError(f"net 'reader' reads text, here are {spec.modality} data", fix="leave net out")
        width, self.config = config.width, config
        if width % config.heads or width // config.heads % 2:
            what = f"net.width={width} is not shared evenly by net.heads={config.heads}, in pairs of numbers"
            raise ConfigError(what, fix=f"type net.width={2 * config.heads * max(1, width // (2 * config.heads))}")
        self.mark, self.dim = spec.opening[0], width // config.heads
        self.ids, self.pairs = nn.Embedding(spec.vocab, width), nn.Embedding(_PAIRS, width)
        nn.init.normal_(self.ids.weight, std=width**-0.5)
        nn.init.zeros_(self.pairs.weight)  # most are met once or never: drawn at random they would be noise
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.query = nn.Parameter(torch.zeros(width))
        self.both = nn.Sequential(nn.Linear(4 * width, width), nn.GELU()) if len(spec.shape) > 1 else None
        self.features = outputs or width
        self.shape = (self.features,)
        self.out = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        read = self._read(ids.flatten(0, -2)).unflatten(0, ids.shape[:-1])
        if self.both is not None:
            one, other = read.unbind(1)
            read = self.both(torch.cat([one, other, one * other, (one - other).abs()], dim=1))
        return self.out(read)

    def _read(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, width)."""
        if self.training and self.config.hide:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.config.hide, self.mark, ids)
        there = ids != self.mark
        there[:, 0] = True  # a text of nothing
        h = self.dropout(self.ids(ids) + self.pairs(pairs(ids, self.mark)))
        if self.blocks:
            turns = angles((ids.shape[1],), self.dim).to(ids.device)
            rotation = turns.cos().to(h.dtype), turns.sin().to(h.dtype)
            for block in self.blocks:
                h = block(h, there, rotation)
        weights = (h @ self.query).masked_fill(~there, -torch.inf).softmax(1)
        return (weights[..., None].to(h.dtype) * h).sum(1)


def pairs(ids: Tensor, mark: int) -> Tensor:
    """(B, T): a hash of each id and the one before it, which of the first is the mark."""
    before = F.pad(ids, (1, 0), value=mark)[:, :-1]
    return (before * _FACTORS[0] + ids * _FACTORS[1] + 1) * _FACTORS[0] % _PRIME % _PAIRS


Reader = Family(encoder=Encoder)
