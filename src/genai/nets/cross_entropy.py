"""Cross entropy of ids whose logits are a matrix product: the largest tensor of a language model, which is never whole
in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 1 << 21  # logits that are in memory at once: in the cache of a CPU
_CHUNK_OF_DEVICE = 1 << 28  # an accelerator is kept busy by large products only
_ALIGNED = 8  # ids: rows of logits in bf16 begin at 16 bytes, or products are padded or take a slow kernel


def autocast_dtype(weight: Tensor) -> torch.dtype:
    """Of products with it."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def linear_cross_entropy(h: Tensor, weight: Tensor, wanted: Tensor, softcap: float = 0.0, *, vocab: int) -> Tensor:
    """Sum of -ln p of the ids `wanted` (N,), those below 0 left out, under logits h @ weight^T for h (N, width) and
    weight, whose rows (width) from `vocab` on write nothing; softly capped where `softcap` > 0.

    Chunk after chunk, with its gradients at once, for which softmax and logits are there and in the cache (Hsu et al.
    2024). The product has the type that autocast gives it, all else is in full precision.
    """
    weight = weight[: -(-vocab // _ALIGNED) * _ALIGNED]
    dtype, learns = autocast_dtype(weight), torch.is_grad_enabled()
    found: Tensor = _LinearCrossEntropy.apply(h.to(dtype), weight.to(dtype), wanted, softcap, vocab, learns)
    return found


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, wanted: Tensor, softcap: float, vocab: int, learns: bool
    ) -> Tensor:
        full = torch.float64 if h.dtype == torch.float64 else torch.float32
        rows = max(1, (_CHUNK if h.device.type == "cpu" else _CHUNK_OF_DEVICE) // len(weight))
        total = torch.zeros((), dtype=full, device=h.device)
        h_grad = torch.empty_like(h) if learns else None
        weight_grad = torch.zeros(weight.shape, dtype=full, device=h.device) if learns else None
        with torch.autocast(h.device.type, enabled=False):
            for start in range(0, len(h), rows):
                part = slice(start, start + rows)
                counts = (wanted[part] >= 0).to(full)[:, None]
                right = wanted[part].clamp(min=0)[:, None]
                logits = torch.mm(h[part], weight.t()).to(full)
                if softcap:
                    bend = logits.div_(softcap).tanh_()
                    logits = bend * softcap
                logits[:, vocab:] = -math.inf
                log_p = logits.log_softmax(dim=1)
                log_right = log_p.gather(1, right)
                total -= (log_right * counts).sum()
                if h_grad is None or weight_grad is None:
                    continue
                gradient = log_p.exp_()
                gradient.scatter_(1, right, log_right.exp() - 1).mul_(counts)
                if softcap:
                    gradient.addcmul_(gradient, bend.square_(), value=-1)
                gradient = gradient.to(h.dtype)
                h_grad[part] = torch.mm(gradient, weight)
                weight_grad += torch.mm(gradient.t(), h[part])
        if h_grad is not None and weight_grad is not None:
            ctx.save_for_backward(h_grad, weight_grad.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        h_grad, weight_grad = ctx.saved_tensors
        return h_grad * scale, weight_grad * scale, None, None, None, None
