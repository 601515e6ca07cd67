"""How far a training has come, when it ends, and where its schedules end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from genai.meters import Sums
from genai.schema import OptimConfig, TrainerConfig

_MEASURED_PART = 0.02  # of a budget in minutes, before its horizon in samples is estimated


@dataclass
class State:
    """Where training stands, beside the tensors: what state.json holds."""

    step: int
    samples: int
    seconds: float  # from the first step, with evaluation, over all resumes
    data: str  # fingerprint of the data and its split
    plan: tuple[int, int]  # batch size, micro-batches of a step
    environment: dict[str, str]  # what bit-exactness depends on
    horizon_samples: int | None = None  # where schedules end: measured once while the budget is in minutes
    horizon_corrected: bool = False
    horizon_minutes: float | None = None  # the budget it was measured for
    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_gain: int = 0
    meters: dict[str, Sums] = field(default_factory=dict)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The end of a training in steps, samples and minutes, whichever comes first, and the horizon of its schedules."""

    trainer: TrainerConfig
    optim: OptimConfig
    batch_size: int

    def used_up(self, state: State) -> bool:
        t = self.trainer
        return (
            (t.max_steps is not None and state.step >= t.max_steps)
            or (t.max_samples is not None and state.samples >= t.max_samples)
            or (t.max_minutes is not None and state.seconds >= 60 * t.max_minutes)
            or (t.patience is not None and state.evaluations_without_gain >= t.patience)
        )

    def horizon(self, state: State) -> int | None:
        """Samples at which schedules end; None while nothing tells."""
        t = self.trainer
        measured = state.horizon_samples if t.max_minutes is not None else None
        ends = [t.max_samples, measured, None if t.max_steps is None else t.max_steps * self.batch_size]
        return min((end for end in ends if end is not None), default=None)

    def measure(self, state: State) -> None:
        """Fixes the horizon of a budget in minutes from the speed so far, and corrects it once, as the decay begins."""
        if self.trainer.max_minutes is None:
            return
        if state.horizon_minutes != self.trainer.max_minutes:  # the run goes on with another budget
            state.horizon_minutes = self.trainer.max_minutes
            state.horizon_samples, state.horizon_corrected = None, False
        if state.horizon_corrected:
            return
        seconds = 60 * self.trainer.max_minutes
        if state.horizon_samples is None:
            if state.seconds >= _MEASURED_PART * seconds:
                state.horizon_samples = int(state.samples * seconds / state.seconds)
        # By samples or, where it has become slower, by time: else the decay would come too late, or never.
        elif max(state.samples / state.horizon_samples, state.seconds / seconds) >= 1 - self.optim.decay_fraction:
            state.horizon_samples = max(state.samples, int(state.samples * seconds / max(state.seconds, 1e-9)))
            state.horizon_corrected = True

    def fraction(self, state: State) -> float | None:
        """How much of the budget is used, 0 to 1; None where only a metric ends the training."""
        t = self.trainer
        parts = [
            (state.step, t.max_steps),
            (state.samples, t.max_samples),
            (state.seconds, None if t.max_minutes is None else 60 * t.max_minutes),
        ]
        used = [min(1.0, have / whole) for have, whole in parts if whole]
        return max(used, default=None)
