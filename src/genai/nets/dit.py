"""Diffusion Transformer (Peebles & Xie 2023): patches as tokens, the condition by adaptive normalisation whose gates
start at zero, places by RoPE over every axis, SwiGLU; a text joins as further keys and values."""

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


class DiT(nn.Module):
    """x (B, C, *size), what is told (B, features) and a context (B, L, context) with its mask -> (B, C, *size)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, spec: Spec, config: DitConfig, context: int = 0) -> None:
        super().__init__()
        refuse_ids(spec)
        channels, *size = spec.shape
        self.patch, width = config.patch, config.width
        if not size:
            what = "net 'dit' needs sounds, pictures or video"
            raise ConfigError(f"{what}, the data is {spec.modality} of shape {spec.shape}", fix="type net=mlp")
        if any(side % self.patch for side in size):
            fitting = [n for n in range(1, min(size) + 1) if not any(side % n for side in size)]
            nearest = min(fitting, key=lambda n: abs(n - self.patch))
            what = f"a side of {' x '.join(map(str, size))} is no multiple of net.patch={self.patch}"
            raise ConfigError(what, fix=f"type net.patch={nearest}, or net=unet")
        if width % config.heads or width // config.heads % 2:
            what = f"net.width={width} is no even multiple of net.heads={config.heads}"
            raise ConfigError(what, fix=f"type net.width={2 * config.heads * max(1, width // (2 * config.heads))}")
        if width // config.heads < 2 * len(size):
            what = f"{width // config.heads} numbers of a head of attention do not tell {len(size)} axes apart"
            raise ConfigError(what, fix=f"type net.width={4 * len(size) * config.heads}")
        self.features = width
        values = channels * self.patch ** len(size)
        self.size = tuple(side // self.patch for side in size)
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


Dit = Family(denoiser=DiT)
