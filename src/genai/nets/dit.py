"""Transformers over patches as tokens, places by RoPE over every axis, SwiGLU. One removes noise (Peebles & Xie 2023):
the condition comes by adaptive normalisation whose gates start at zero, a text joins as further keys and values. One
makes a vector of a sample (Dosovitskiy et al. 2021), by the mean of its tokens (Beyer et al. 2022)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import DitConfig
from genai.nets.attention import Attention, angles
from genai.nets.family import Family, refuse_ids
from genai.nets.patches import into_patches, out_of_patches


def _zero(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class SwiGLU(nn.Module):
    """Shazeer 2020; as many parameters as two layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 8 * math.ceil(width / 3)
        self.both, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.both(h).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = (nn.RMSNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention, self.mlp = Attention(width=width, heads=heads, context=context), SwiGLU(width)
        nn.init.xavier_uniform_(self.attention.out.weight)  # the gate is what starts at zero
        self.told = _zero(width, 6 * width)

    def forward(
        self,
        h: Tensor,
        told: Tensor,
        context: Tensor | None,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor],
    ) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.told(told)[:, None].chunk(6, dim=2)
        h = h + gate * self.attention(self.norm(h) * (1 + scale) + shift, context, mask, rotation)
        return h + mlp_gate * self.mlp(self.mlp_norm(h) * (1 + mlp_scale) + mlp_shift)


def _cut(spec: Spec, config: DitConfig) -> tuple[int, ...]:
    """How many patches lie along each axis. Raises ConfigError for data and settings that do not fit."""
    refuse_ids(spec)
    _, *size = spec.shape
    patch, width = config.patch, config.width
    if not size:
        what = "net 'dit' needs sounds, pictures or video"
        raise ConfigError(f"{what}, the data is {spec.modality} of shape {spec.shape}", fix="type net=mlp")
    if any(side % patch for side in size):
        fitting = [n for n in range(1, min(size) + 1) if not any(side % n for side in size)]
        nearest = min(fitting, key=lambda n: abs(n - patch))
        what = f"a side of {' x '.join(map(str, size))} is no multiple of net.patch={patch}"
        raise ConfigError(what, fix=f"type net.patch={nearest}, or net=unet")
    if width % config.heads or width // config.heads % 2:
        what = f"net.width={width} is no even multiple of net.heads={config.heads}"
        raise ConfigError(what, fix=f"type net.width={2 * config.heads * max(1, width // (2 * config.heads))}")
    if width // config.heads < 2 * len(size):
        what = f"{width // config.heads} numbers of a head of attention do not tell {len(size)} axes apart"
        raise ConfigError(what, fix=f"type net.width={4 * len(size) * config.heads}")
    return tuple(side // patch for side in size)


class DiT(nn.Module):
    """x (B, C, *size), what is told (B, features) and a context (B, L, context) with its mask -> (B, C, *size)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, spec: Spec, config: DitConfig, context: int = 0) -> None:
        super().__init__()
        self.size, self.patch, width = _cut(spec, config), config.patch, config.width
        self.features = width
        values = spec.shape[0] * self.patch ** len(self.size)
        turns = angles(self.size, width // config.heads)
        self.register_buffer("cosine", turns.cos(), persistent=False)
        self.register_buffer("sine", turns.sin(), persistent=False)
        self.enter = nn.Linear(values, width)
        self.blocks = nn.ModuleList(Block(width, config.heads, context) for _ in range(config.layers))
        self.norm, self.told = nn.RMSNorm(width, elementwise_affine=False), _zero(width, 2 * width)
        self.out = _zero(width, values)

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        told = F.silu(told)
        h = self.enter(into_patches(x, self.patch).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, told, context, mask, (self.cosine, self.sine))
        shift, scale = self.told(told)[:, None].chunk(2, dim=2)
        h = self.out(self.norm(h) * (1 + scale) + shift)
        return out_of_patches(h.transpose(1, 2).unflatten(2, self.size), self.patch)


class PlainBlock(nn.Module):
    """That is told nothing; it begins by changing nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention, self.mlp = Attention(width=width, heads=heads), SwiGLU(width)
        nn.init.zeros_(self.mlp.out.weight)
        nn.init.zeros_(self.mlp.out.bias)

    def forward(self, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        h = h + self.attention(_normed(h, self.norm), rotation=rotation)
        return h + self.mlp(_normed(h, self.mlp_norm))


def _normed(h: Tensor, norm: nn.RMSNorm) -> Tensor:
    return norm(h.to(norm.weight.dtype))  # in bf16 there is no fused kernel


class Encoder(nn.Module):
    """x (B, C, *size) -> (B, features)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, spec: Spec, config: DitConfig, outputs: int | None = None, factor: int | None = None) -> None:
        super().__init__()
        if factor is not None:
            raise ConfigError("net 'dit' has no maps, only vectors", fix="type net=conv")
        size, width = _cut(spec, config), config.width
        self.patch, self.features = config.patch, outputs or width
        self.shape = (self.features,)
        turns = angles(size, width // config.heads)
        self.register_buffer("cosine", turns.cos(), persistent=False)
        self.register_buffer("sine", turns.sin(), persistent=False)
        self.enter = nn.Linear(spec.shape[0] * self.patch ** len(size), width)
        self.blocks = nn.ModuleList(PlainBlock(width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(width)
        self.out = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(into_patches(x, self.patch).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, (self.cosine, self.sine))
        return self.out(_normed(h, self.norm).mean(1))


Dit = Family(encoder=Encoder, denoiser=DiT)
