"""The order of samples, a pure function of (seed, epoch, index): a resume needs no more than how many were seen."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """(n,) int64 ids in the order of this epoch."""
    # torch's CPU generator keeps 32 bits of a seed, so both numbers are hashed into them.
    digest = hashlib.sha256(f"order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.randperm(n, generator=generator)


def step_index(seed: int, position: int, batch_size: int, n: int) -> Tensor:
    """(batch_size,) ids of the samples after the first `position` ones; epochs follow each other without a gap."""
    parts, wanted = [], batch_size
    while wanted > 0:
        epoch, start = divmod(position, n)
        part = permutation(seed, epoch, n)[start : start + wanted]
        parts.append(part)
        position, wanted = position + len(part), wanted - len(part)
    return torch.cat(parts)
