"""How far a training has come, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from genai.meters import Sums
from genai.schema import TrainerConfig


@dataclass
class State:
    """Where training stands, beside the tensors: what state.json holds."""

    step: int
    samples: int
    seconds: float  # from the first step, with evaluation, over all resumes
    data: str  # fingerprint of the data and its split
    plan: tuple[int, int]  # batch size, micro-batches of a step
    environment: dict[str, str]  # what bit-exactness depends on
    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_gain: int = 0
    meters: dict[str, Sums] = field(default_factory=dict)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The end of a training in steps, samples and minutes, whichever comes first."""

    trainer: TrainerConfig

    def used_up(self, state: State) -> bool:
        t = self.trainer
        return (
            (t.max_steps is not None and state.step >= t.max_steps)
            or (t.max_samples is not None and state.samples >= t.max_samples)
            or (t.max_minutes is not None and state.seconds >= 60 * t.max_minutes)
            or (t.patience is not None and state.evaluations_without_gain >= t.patience)
        )

    def fraction(self, state: State) -> float | None:
        """How much of the budget is used, 0 to 1, which schedules go by; None where only a metric ends the training. Of
        minutes it is the time itself: a speed that changes brings no schedule to its end too early, or never."""
        t = self.trainer
        parts = [
            (state.step, t.max_steps),
            (state.samples, t.max_samples),
            (state.seconds, None if t.max_minutes is None else 60 * t.max_minutes),
        ]
        used = [min(1.0, have / whole) for have, whole in parts if whole]
        return max(used, default=None)
