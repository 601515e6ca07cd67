"""A small checkpoint whose content says its step, for the tests of saving, damage and kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from genai import checkpoint as checkpoints
from genai.checkpoint import Checkpoint

torch.set_num_threads(1)


def save(folder: Path, step: int, **changes: Any) -> Checkpoint:
    weights = {"w": torch.full((4, 3), float(step)), "b": torch.arange(5)}
    given: dict[str, Any] = {
        "model": "probe",
        "run_id": "r1",
        "tensors": {
            "model": weights,
            "ema": {"w": weights["w"] + 0.5, "b": weights["b"]},
            "optim": {"w/m": torch.ones(2)},
        },
        "documents": {"state": {"step": step}, "config": {"model": {"name": "probe"}}, "spec": {"shape": [3]}},
    }
    return checkpoints.save(folder, step=step, **{**given, **changes})


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether all that it holds is what `save` wrote for its step."""
    step = checkpoint.step
    return (
        bool(checkpoint.tensors("model")["w"].eq(step).all())
        and bool(checkpoint.tensors("ema")["w"].eq(step + 0.5).all())
        and checkpoint.json("state.json") == {"step": step}
    )
