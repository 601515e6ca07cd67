"""Decoder that reads ids from left to right (Vaswani et al. 2017): RMS norms, rotary positions, normalised queries and
keys, squared rectifiers, residual branches that start at zero. GPT-2's parts can be had in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.errors import ConfigError
from genai.nets import GptConfig
from genai.nets.attention import causal_attention, rotated
from genai.nets.family import Family

_ROUND = 64  # tables of ids have a multiple of so many rows: matrix products like it
_FEW = 1 << 14  # numbers, of which a step through Python costs more than passes over them
_SHARPNESS = 1.44  # of attention among normalised queries and keys, over the square root of their width


@dataclass(frozen=True)
class Place:
    """Where new ids stand: row r at `start[r]` and on, after what a cache holds of it."""

    start: Tensor  # (B,)
    level: int | None  # the start of all rows; None where they differ
    end: int  # the length of the longest row with them


class Attention(nn.Module):
    """Causal attention; groups of heads share keys and values where there are fewer of these (Ainslie et al. 2023)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.dim = config.width // config.heads
        self.normalised, self.dropout = config.qk_norm, config.dropout
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.dim, bias=config.bias)
        self.qkv.weight.rows = [size * self.dim for size in (self.heads, self.kv_heads, self.kv_heads)]  # type: ignore[attr-defined]
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, h: Tensor, rotation: tuple[Tensor, Tensor] | None, kept: Tensor | None = None, at: Place | None = None
    ) -> Tensor:
        """h (B, T, width). `kept` (2, B, kv_heads, slots, dim) are keys and values of what was read, and are told the
        new ones."""
        sizes = [self.heads + self.kv_heads, self.kv_heads]
        both, v = self.qkv(h).unflatten(2, (-1, self.dim)).transpose(1, 2).split(sizes, dim=1)
        if self.normalised:
            both = unit(both.to(self.out.weight.dtype))
        if rotation is not None:
            both = rotated(both, *rotation)
        q, k = both.to(v.dtype).split([self.heads, self.kv_heads], dim=1)
        mask = None
        if kept is not None:
            assert at is not None
            k, v, mask = _remembered(k, v, kept, at)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        found = causal_attention(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        return self.out(found.transpose(1, 2).flatten(2))


def _remembered(k: Tensor, v: Tensor, kept: Tensor, at: Place) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values of all that was read and of what is new; a mask (B, 1, T, slots) unless each new id follows on
    all that was read, with nothing else new but what is before it."""
    rows, length = k.shape[0], k.shape[2]
    reach = at.start[:, None] + torch.arange(length, device=k.device)  # (B, T): the place of each new id
    if at.level is not None:
        kept[0, :, :, at.level : at.end], kept[1, :, :, at.level : at.end] = k, v
    else:
        row = torch.arange(rows, device=k.device)[:, None]
        kept[0][row, :, reach], kept[1][row, :, reach] = k.transpose(1, 2), v.transpose(1, 2)
    mask = None
    if at.level is None or (at.level > 0 and length > 1):
        mask = (torch.arange(at.end, device=k.device) <= reach[..., None])[:, None]
    return kept[0, :, :, : at.end].to(k.dtype), kept[1, :, :, : at.end].to(v.dtype), mask


class Feed(nn.Module):
    """Two layers around a squared rectifier (So et al. 2021), a GELU, or a gated SiLU (Shazeer 2020) of two thirds of
    the width."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.kind, hidden = config.feed, 4 * config.width
        gated = self.kind == "swiglu"
        if gated:
            hidden = -(-2 * hidden // 3 // 8) * 8
        self.enter = nn.Linear(config.width, 2 * hidden if gated else hidden, bias=config.bias)
        self.out = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, h: Tensor) -> Tensor:
        h = self.enter(h)
        if self.kind == "relu2":
            return self.out(h * F.relu(h))  # the square, in a third of the time there and back
        if self.kind == "gelu":
            return self.out(F.gelu(h))
        gate, h = h.chunk(2, dim=-1)
        return self.out(F.silu(gate) * h)


class _Unit(torch.autograd.Function):
    """h over the root of its mean square. torch's has no kernel of its own on CPUs and takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        inverse = math.sqrt(h.shape[-1]) / (torch.linalg.vector_norm(h, dim=-1, keepdim=True) + 1e-6)
        y = h * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        return torch.addcmul(gradient, y, (gradient * y).mean(-1, keepdim=True), value=-1).mul_(inverse)


def unit(h: Tensor) -> Tensor:
    """RMS norm without gains, over the last axis (Zhang & Sennrich 2019)."""
    if not torch.is_grad_enabled() and h.numel() < _FEW:
        return F.rms_norm(h, h.shape[-1:])
    found: Tensor = _Unit.apply(h)
    return found


class Norm(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return unit(h)


def _norm(config: GptConfig) -> nn.Module:
    return nn.LayerNorm(config.width, bias=config.bias) if config.norm == "layer" else Norm()


class Block(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = _norm(config), Attention(config)
        self.feed_norm, self.feed = _norm(config), Feed(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self, h: Tensor, rotation: tuple[Tensor, Tensor] | None, kept: Tensor | None = None, at: Place | None = None
    ) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h), rotation, kept, at))
        return h + self.dropout(self.feed(self.feed_norm(h)))


class Gpt(nn.Module):
    """ids (B, T) below `ids` -> features (B, T, width); `logits` makes (B, T, vocab) of them: there may be ids that are
    read and never written."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, ids: int, vocab: int, context: int, config: GptConfig) -> None:
        super().__init__()
        kv_heads, width = config.kv_heads or config.heads, config.width
        if width % config.heads or config.heads % kv_heads:
            what = f"net.width={width}, net.heads={config.heads} and net.kv_heads={kv_heads} do not divide one another"
            raise ConfigError(what, fix=f"type net.heads={max(1, width // 32)} net.kv_heads=null")
        rotary = config.positions == "rope"
        if rotary and width // config.heads % 2:
            what = f"heads of {width // config.heads} numbers cannot be turned in pairs"
            raise ConfigError(what, fix=f"type net.heads={max(1, width // 32)}, or net.positions=learned")
        self.vocab, self.context, self.softcap = vocab, context, config.softcap
        self.table = nn.Embedding(_rounded(ids), width)
        self.places = None if rotary else nn.Embedding(context, width)
        self.enter_norm = Norm() if config.norm == "rms" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.head = nn.Linear(width, _rounded(vocab), bias=False)
        self._initialise(config)
        dim = width // config.heads
        frequencies = config.rope_base ** (-torch.arange(0, dim, 2) / dim)
        turns = torch.arange(context)[:, None] * torch.cat([-frequencies, frequencies])
        sharp = math.sqrt(_SHARPNESS) if config.qk_norm else 1.0  # of the queries and of the keys
        self.register_buffer("cosine", sharp * turns.cos(), persistent=False)
        self.register_buffer("sine", sharp * turns.sin(), persistent=False)

    def _initialise(self, config: GptConfig) -> None:
        """Small uniform weights of deviation sqrt(0.33 / inputs), residual branches and logits that start at zero; with
        GPT-2's norms as it has them (Radford et al. 2019)."""
        gpt2 = config.norm == "layer"
        tables = [module for module in (self.table, self.places) if module is not None]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02 if gpt2 else 1.0)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                inputs = module.in_features
                if gpt2:
                    std = 0.02 / math.sqrt(2 * config.layers) if name.endswith(".out") else 0.02
                    nn.init.normal_(module.weight, std=std)
                elif name.endswith(".out") or name == "head":
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.uniform_(module.weight, -math.sqrt(1 / inputs), math.sqrt(1 / inputs))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in tables:
            table.weight.role = "table"  # type: ignore[attr-defined]
        self.head.weight.role = "head"  # type: ignore[attr-defined]
        if config.tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor, cache: Cache | None = None, at: Place | None = None) -> Tensor:
        """`at` says where ids stand that follow on what the cache holds."""
        h = self.table(ids)
        if at is None:
            reach: Tensor | slice = slice(ids.shape[1])
        elif at.level is not None:
            reach = slice(at.level, at.level + ids.shape[1])
        else:
            reach = at.start[:, None] + torch.arange(ids.shape[1], device=ids.device)
        rotation = None
        if self.places is not None:
            h = h + self.places.weight[reach]
        else:
            rotation = self.cosine[reach], self.sine[reach]
            if rotation[0].ndim == 3:
                rotation = rotation[0][:, None], rotation[1][:, None]
        h = self.dropout(self.enter_norm(h))
        for number, block in enumerate(self.blocks):
            h = block(h, rotation, None if cache is None else cache.layers[number], at)
        return self.norm(h)

    def logits(self, h: Tensor) -> Tensor:
        """In full precision, softly capped."""
        found = self.head(h)[..., : self.vocab].float()
        return self.softcap * torch.tanh(found / self.softcap) if self.softcap else found


def _rounded(rows: int) -> int:
    return -(-rows // _ROUND) * _ROUND


class Cache:
    """What a decoder has read of each row, and the keys and values of it, by layer (2, B, kv_heads, slots, dim).

    A row fills its slots from the first on, whatever the others do: prompts of several lengths need no padding on the
    left, and what becomes of a row does not depend on the others. One that has filled all slots goes on with its later
    half, which is read again.
    """

    def __init__(self, decoder: Gpt, rows: Sequence[Sequence[int]], slots: int) -> None:
        self.decoder, self.slots = decoder, min(slots, decoder.context)
        self.rows = [list(row) for row in rows]
        self.lengths = [0] * len(rows)  # slots that are filled
        weight, first = decoder.table.weight, decoder.blocks[0].attention
        assert isinstance(first, Attention)
        self.device = weight.device
        shape = (2, len(rows), first.kv_heads, self.slots, first.dim)
        self.layers = [torch.zeros(shape, device=self.device, dtype=weight.dtype) for _ in decoder.blocks]

    def read(self) -> Tensor:
        """Features (B, width) of the last id of each row; of rows that are longer than the slots, the end is read."""
        return self._read_anew(range(len(self.rows)), self.slots)

    def follow(self, ids: Sequence[int]) -> Tensor:
        """Features (B, width) of an id for each row, after all that was read."""
        for row, new in zip(self.rows, ids, strict=True):
            row.append(new)
        full = [r for r, length in enumerate(self.lengths) if length == self.slots]
        if not full:
            return self._read(range(len(ids)), [[new] for new in ids], self.lengths)[:, 0]
        open_ = [r for r in range(len(ids)) if r not in full]
        found = self._read_anew(full, max(1, self.slots // 2))
        features = found.new_empty(len(ids), found.shape[1])
        features[full] = found
        if open_:
            features[open_] = self._read(open_, [[ids[r]] for r in open_], [self.lengths[r] for r in open_])[:, 0]
        return features

    def _read_anew(self, rows: Sequence[int], most: int) -> Tensor:
        """The features of the last id of these rows, once up to `most` ids at their end are in their first slots."""
        ends = [self.rows[r][-most:] for r in rows]
        longest = max(map(len, ends))
        # Filled up behind: nobody looks ahead, and what follows takes these slots.
        features = self._read(rows, [end + [0] * (longest - len(end)) for end in ends], [0] * len(rows))
        for r, end in zip(rows, ends, strict=True):
            self.lengths[r] = len(end)
        return features[torch.arange(len(ends)), torch.tensor([len(end) - 1 for end in ends])]

    def _read(self, rows: Sequence[int], ids: list[list[int]], starts: Sequence[int]) -> Tensor:
        """Features (rows, T, width) of ids that stand at `starts` and on."""
        every, all_layers = len(rows) == len(self.rows), self.layers
        if not every:
            self.layers = [layer[:, rows] for layer in all_layers]
        level = starts[0] if min(starts) == max(starts) else None
        at = Place(torch.tensor(starts, device=self.device), level, max(starts) + len(ids[0]))
        features = self.decoder(torch.tensor(ids, device=self.device), self, at)
        if not every:
            for layer, part in zip(all_layers, self.layers, strict=True):
                layer[:, rows] = part
            self.layers = all_layers
        for r, start in zip(rows, starts, strict=True):
            self.lengths[r] = start + len(ids[0])
        return features


Language = Family(autoregressor=Gpt)
