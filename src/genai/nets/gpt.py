"""Decoder that reads ids from left to right (Vaswani et al. 2017): RMS norms, rotary positions, normalised queries and
keys, squared rectifiers, residual branches that start at zero. GPT-2's parts can be had in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genai.errors import ConfigError
from genai.nets import GptConfig
from genai.nets.attention import causal_attention, no_flash, rotated
from genai.nets.cross_entropy import autocast_dtype, linear_cross_entropy
from genai.nets.family import Family

_ROUND = 64  # tables of ids have a multiple of so many rows: matrix products like it
_TINY = torch.tensor(1e-6)  # a number takes twice as long to add
_SHARP = 1.2  # root mean square of normalised queries and keys


@dataclass(frozen=True)
class Place:
    """Where a new id of each row stands, behind what a cache holds of it."""

    level: int | None  # of all rows; None where they differ
    row: Tensor | None  # (B,), then: 0, 1, ..
    start: Tensor | None  # (B,), then
    mask: Tensor | None  # (B, 1, 1, end), then: which slots a row has filled with it
    end: int  # of the longest row with it


Rotation = tuple[Tensor, Tensor] | None
Step = Callable[[Tensor, Rotation, Place], Tensor]  # h (B, width) of an id a row -> what is added to it


def _linear(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Of (B, inputs), as a function of weights that are taken out once, in the type that autocast gives them: what a
    step of a small decoder costs is not its arithmetic, it is the calls through modules and the casts."""
    dtype = autocast_dtype(layer.weight)
    weight = layer.weight.to(dtype).t()
    if layer.bias is not None:
        bias = layer.bias.to(dtype)
        return lambda h: torch.addmm(bias, h.to(dtype), weight)
    if dtype == layer.weight.dtype:  # as h is
        return lambda h: torch.mm(h, weight)
    return lambda h: torch.mm(h.to(dtype), weight)


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

    def forward(self, h: Tensor, rotation: Rotation, kept: Tensor | None = None) -> Tensor:
        """h (B, T, width). `kept` (2, B, kv_heads, slots, dim) gets the keys and values in its first slots."""
        q, k, v = (t.transpose(1, 2) for t in self._heads(self.qkv(h), rotation))
        if kept is not None:
            kept[0, :, :, : k.shape[2]], kept[1, :, :, : v.shape[2]] = k, v
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        found = causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.out(found.transpose(1, 2).flatten(2))

    def stepper(self, kept: Tensor) -> Step:
        """The same for an id of each row, h (B, width), which stands behind what is kept."""
        qkv, out, heads, kept_k, kept_v = _linear(self.qkv), _linear(self.out), self._heads, kept[0], kept[1]
        attend, kv_heads, dim = F.scaled_dot_product_attention, self.kv_heads, self.dim

        def step(h: Tensor, rotation: Rotation, at: Place) -> Tensor:
            q, k, v = heads(qkv(h), rotation)
            if at.level is not None:
                kept_k[:, :, at.level], kept_v[:, :, at.level] = k, v
            else:
                kept_k[at.row, :, at.start], kept_v[at.row, :, at.start] = k, v
            q = q.reshape(len(h), kv_heads, -1, dim)  # heads that share keys are queries of one
            found = attend(q, kept_k[:, :, : at.end], kept_v[:, :, : at.end], attn_mask=at.mask)
            return out(found.reshape(len(h), -1))

        return step

    def _heads(self, qkv: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """(..., all of them) -> queries (..., heads, dim), keys and values (..., kv_heads, dim)."""
        both, v = qkv.unflatten(-1, (-1, self.dim)).split_with_sizes([self.heads + self.kv_heads, self.kv_heads], -2)
        if self.normalised:
            both = unit(both.float() if both.dtype == torch.bfloat16 else both)
        if rotation is not None:
            both = rotated(both, *rotation)
        if both.dtype != v.dtype:
            both = both.to(v.dtype)
        q, k = both.split_with_sizes([self.heads, self.kv_heads], -2)
        return q, k, v


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
        return self.out(self.between(self.enter(h)))

    def between(self, h: Tensor) -> Tensor:
        if self.kind == "relu2":
            return h * F.relu(h)  # the square, in a third of the time there and back
        if self.kind == "gelu":
            return F.gelu(h)
        gate, h = h.chunk(2, dim=-1)
        return F.silu(gate) * h

    def stepper(self) -> Callable[[Tensor], Tensor]:
        enter, between, out = _linear(self.enter), self.between, _linear(self.out)
        return lambda h: out(between(enter(h)))


class _Unit(torch.autograd.Function):
    """h over the root of its mean square. torch's has no kernel of its own on CPUs, where it takes longer."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        inverse = math.sqrt(h.shape[-1]) / (torch.linalg.vector_norm(h, dim=-1, keepdim=True) + 1e-6)
        y = h * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        return torch.addcmul(gradient, y, (gradient * y).mean(-1, keepdim=True), value=-1).mul_(inverse)


def unit(h: Tensor) -> Tensor:
    """RMS norm without gains, over the last axis (Zhang & Sennrich 2019)."""
    if torch.is_grad_enabled():
        found: Tensor = _Unit.apply(h)
        return found
    norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    return h / torch.add(_TINY, norm, alpha=h.shape[-1] ** -0.5)


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

    def forward(self, h: Tensor, rotation: Rotation, kept: Tensor | None = None) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h), rotation, kept))
        return h + self.dropout(self.feed(self.feed_norm(h)))

    def stepper(self, kept: Tensor) -> Step:
        attention_norm, attend = self.attention_norm.forward, self.attention.stepper(kept)
        feed_norm, feed = self.feed_norm.forward, self.feed.stepper()

        def step(h: Tensor, rotation: Rotation, at: Place) -> Tensor:
            h = h + attend(attention_norm(h), rotation, at)
            return h + feed(feed_norm(h))

        return step


class Gpt(nn.Module):
    """ids (B, T) below `ids` -> features (B, T, width); `logits` makes (B, T, vocab) of them: there may be ids that are
    read and never written."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, ids: int, vocab: int, context: int, config: GptConfig) -> None:
        super().__init__()
        if config.size is not None:
            config = replace(config, layers=config.size, width=64 * config.size, heads=config.size)
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
        sharp = _SHARP if config.qk_norm else 1.0
        self.register_buffer("cosine", sharp * turns.cos(), persistent=False)
        self.register_buffer("sine", sharp * turns.sin(), persistent=False)

    def _initialise(self, config: GptConfig) -> None:
        """Small uniform weights of deviation sqrt(0.33 / inputs), residual branches and logits that start at zero; with
        GPT-2's norms as it has them (Radford et al. 2019)."""
        gpt2 = config.norm == "layer"
        tables = [module for module in (self.table, self.places) if module is not None]
        for table in tables:
            # Of one that also writes, large rows would make what was read the likeliest to follow.
            nn.init.normal_(table.weight, std=0.02 if gpt2 or config.tied else 1.0)
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

    def forward(self, ids: Tensor, kept: Sequence[Tensor] | None = None, *, wanted: Tensor | None = None) -> Tensor:
        """`kept` are those of each layer. With `wanted` (B, T), what should follow on each id, the sum of -ln p of
        these, those below 0 left out."""
        h, rotation = self.table(ids), None
        if self.places is not None:
            h = h + self.places.weight[: ids.shape[1]]
        else:
            rotation = self.cosine[: ids.shape[1], None], self.sine[: ids.shape[1], None]
        h = self.dropout(self.enter_norm(h))
        for number, block in enumerate(self.blocks):
            h = block(h, rotation, None if kept is None else kept[number])
        h = self.norm(h)
        if wanted is None:
            return h
        return linear_cross_entropy(h.flatten(0, 1), self.head.weight, wanted.flatten(), self.softcap, vocab=self.vocab)

    def notes(self) -> list[str]:
        """Why attention is not as fast as it could be, in the type that autocast computes in; nothing where it is."""
        weight, block = self.table.weight, cast(Block, self.blocks[0])
        heads, dim, dtype = block.attention.heads, block.attention.dim, autocast_dtype(weight)
        q = torch.empty(1, device=weight.device, dtype=dtype, requires_grad=True).expand(1, heads, self.context, dim)
        why = no_flash(q, dropout=block.attention.dropout)
        return [] if why is None else [why]

    def operations(self) -> int:
        """That training takes for an id, there and back: 6 for each weight of a matrix, 12 for each layer, place and
        number of attention (Chowdhery et al. 2022)."""
        matrices = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        return 6 * matrices + 12 * len(self.blocks) * self.context * self.table.embedding_dim

    def stepper(self, kept: Sequence[Tensor]) -> Callable[[Tensor, Place], Tensor]:
        """Features (B, width) of an id of each row (B,) behind what is kept."""
        steps = [cast(Block, block).stepper(own) for block, own in zip(self.blocks, kept, strict=True)]

        def step(ids: Tensor, at: Place) -> Tensor:
            where = at.level if at.level is not None else at.start
            h, rotation = self.table(ids), None
            if self.places is not None:
                h = h + self.places.weight[where]
            else:
                rotation = self.cosine[where], self.sine[where]
                if at.level is None:
                    rotation = rotation[0][:, None], rotation[1][:, None]
            h = self.enter_norm(h)
            for each in steps:
                h = each(h, rotation, at)
            return self.norm(h)

        return step

    def cache(self, rows: Sequence[Sequence[int]], slots: int) -> Cache:
        """Of these rows of ids, and what follows on them."""
        return Cache(self, rows, slots)

    def logits(self, h: Tensor) -> Tensor:
        """In full precision, softly capped."""
        return self._capped(self.head(h)[..., : self.vocab].float())

    def writer(self) -> Callable[[Tensor], Tensor]:
        """The same of features (B, width), for many steps."""
        head, vocab = _linear(self.head), self.vocab
        return lambda h: self._capped(head(h)[:, :vocab].float())

    def _capped(self, logits: Tensor) -> Tensor:
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits


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
        self.layers = [torch.zeros(shape, device=self.device, dtype=autocast_dtype(weight)) for _ in decoder.blocks]
        self.step = decoder.stepper(self.layers)

    def read(self) -> Tensor:
        """Features (B, width) of the last id of each row; of rows that are longer than the slots, the end is read."""
        return self._read_anew(range(len(self.rows)), self.slots)

    def follow(self, ids: Sequence[int]) -> Tensor:
        """Features (B, width) of an id for each row, after all that was read."""
        for row, new in zip(self.rows, ids, strict=True):
            row.append(new)
        full = [r for r, length in enumerate(self.lengths) if length == self.slots]
        if not full:
            return self._step(ids)
        rest = [r for r in range(len(ids)) if r not in full]
        found = self._read_anew(full, max(1, self.slots // 2))
        features = found.new_empty(len(ids), found.shape[1])
        features[full] = found
        if rest:
            features[rest] = self._step([ids[r] for r in rest], rest)
        return features

    def _read_anew(self, rows: Sequence[int], most: int) -> Tensor:
        """The features of the last id of these rows, once up to `most` ids at their end are in their first slots."""
        ends = [self.rows[r][-most:] for r in rows]
        longest = max(map(len, ends))
        # Filled up behind: nobody looks ahead, and what follows takes these slots.
        filled = torch.tensor([end + [0] * (longest - len(end)) for end in ends], device=self.device)
        with self._of(rows) as layers:
            features = self.decoder(filled, layers)
        for r, end in zip(rows, ends, strict=True):
            self.lengths[r] = len(end)
        return features[torch.arange(len(ends)), torch.tensor([len(end) - 1 for end in ends])]

    def _step(self, ids: Sequence[int], rows: Sequence[int] | None = None) -> Tensor:
        rows = range(len(self.rows)) if rows is None else rows
        starts = [self.lengths[r] for r in rows]
        level, end = starts[0] if min(starts) == max(starts) else None, max(starts) + 1
        row = start = mask = None
        if level is None:
            row, start = torch.arange(len(rows), device=self.device), torch.tensor(starts, device=self.device)
            mask = (torch.arange(end, device=self.device) <= start[:, None])[:, None, None]
        at, new = Place(level, row, start, mask, end), torch.tensor(ids, device=self.device)
        if len(rows) == len(self.rows):
            features = self.step(new, at)
        else:
            with self._of(rows) as layers:
                features = self.decoder.stepper(layers)(new, at)
        for r in rows:
            self.lengths[r] += 1
        return features

    @contextmanager
    def _of(self, rows: Sequence[int]) -> Iterator[list[Tensor]]:
        """What is kept of these rows, to be written."""
        if len(rows) == len(self.rows):
            yield self.layers
            return
        parts = [layer[:, rows] for layer in self.layers]
        yield parts
        for layer, part in zip(self.layers, parts, strict=True):
            layer[:, rows] = part


Language = Family(autoregressor=Gpt)
