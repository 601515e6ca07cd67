"""Attention over positions, which may also look at the tokens of a text."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

_FEW_PAIRS = 1 << 16  # of queries and keys


class Attention(nn.Module):
    """Multi-head attention of tokens (B, T, width) among themselves and, with `context` > 0, over further ones (B, L,
    context) that attend to nothing. Queries and keys are normalised (Henry et al. 2020). The output starts at zero."""

    def __init__(self, *, width: int, heads: int, context: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.context = nn.Linear(context, 2 * width) if context else None
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        h: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """`mask` says which tokens of the context there are (B, L), or without a context which of its own (B, T);
        `rotation` is cosines and sines (T, width / heads)."""
        q, k, v = self._split(self.qkv(h), 3)
        q, k = self._unit(q, self.q_norm), self._unit(k, self.k_norm)
        if rotation is not None:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        attended = None if mask is None else mask[:, None, None]
        if self.context is not None:
            assert context is not None
            assert mask is not None
            further_k, further_v = self._split(self.context(context), 2)
            k = torch.cat([k, self._unit(further_k, self.k_norm)], dim=2)
            v = torch.cat([v, further_v], dim=2)
            attended = F.pad(mask, (h.shape[1], 0), value=True)[:, None, None]
        found = attention(q.to(v.dtype), k.to(v.dtype), v, attended)
        return self.out(found.transpose(1, 2).flatten(2))

    def _unit(self, h: Tensor, norm: nn.RMSNorm) -> Tensor:
        """Normalised out of bf16, in which there is no fused kernel."""
        return norm(h.to(norm.weight.dtype))

    def _split(self, h: Tensor, parts: int) -> list[Tensor]:
        """(B, T, parts * width) -> parts of (B, heads, T, width / heads)."""
        return list(h.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4))


def heads_of(width: int, head_width: int) -> int:
    """The most heads of at least `head_width` numbers that share the width evenly."""
    return next(heads for heads in range(max(1, width // head_width), 0, -1) if width % heads == 0)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (B, heads, T, d), where `mask` is true."""
    if q.device.type != "cpu" or q.shape[2] * k.shape[2] > _FEW_PAIRS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # On a CPU its gradient takes six times as long in bf16 (measured with 49 positions).
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(3).to(v.dtype) @ v


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """The same of as many queries as keys, none of which sees a key behind its own place."""
    if q.device.type != "cpu" or (q.shape[2] ** 2 > _FEW_PAIRS and not dropout):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    # Added to scores: a mask costs half as much again as attention itself.
    ahead = torch.full((q.shape[2], q.shape[2]), -math.inf, dtype=scores.dtype).triu(1)
    shares = (scores + ahead).softmax(3).to(v.dtype)
    return (F.dropout(shares, dropout) if dropout else shares) @ v


def no_flash(q: Tensor, *, dropout: float = 0.0) -> str | None:
    """Why causal attention of queries and keys like these (B, heads, T, d) is slower than by torch's fastest kernels;
    None: it is not, or torch does not tell."""
    if q.device.type == "cpu":
        return (
            "attention keeps all scores: on a CPU no kernel has dropout, net.dropout=0 is faster" if dropout else None
        )
    try:
        chosen = SDPBackend(torch._fused_sdp_choice(q, q, q, None, dropout, True))
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        return None
    if chosen == SDPBackend.EFFICIENT_ATTENTION:
        return "attention by torch's memory-efficient kernel: its faster ones want dtype=bf16, and heads of 256 at most"
    if chosen == SDPBackend.MATH:
        return f"attention keeps all scores: no kernel takes {str(q.dtype).removeprefix('torch.')} here"
    return None


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs of numbers, half of them apart, turned by the angles of their position (Su et al. 2021, RoPE). The sines of
    the first half are those of the negative angles."""
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)


def angles(size: tuple[int, ...], dim: int) -> Tensor:
    """(positions, dim) angles of RoPE over any number of axes, those of the first half negative: each axis has an equal
    share of the pairs of numbers, with frequencies from 1 down to 1 / 100 radians a position; pairs that are left over
    do not turn."""
    share = dim // 2 // len(size)
    frequencies = 100.0 ** (-torch.arange(share) / max(share, 1))
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    found = torch.cat([axis.reshape(-1, 1) * frequencies for axis in grid], dim=1)
    found = F.pad(found, (0, dim // 2 - found.shape[1]))
    return torch.cat([-found, found], dim=1)
