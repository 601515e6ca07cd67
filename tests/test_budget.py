"""Budgets in steps, samples and minutes, and what schedules make of them."""

from __future__ import annotations

from typing import Any

import pytest

from genai.budget import Budget, State
from genai.optim import lr_scale
from genai.schema import OptimConfig, TrainerConfig


def budget(**settings: Any) -> Budget:
    return Budget(TrainerConfig(**settings))


def state(**settings: Any) -> State:
    return State(**{"step": 0, "samples": 0, "seconds": 0.0, "data": "", "plan": (10, 1), "environment": {}} | settings)


def test_the_first_limit_that_is_reached_ends_the_training() -> None:
    both = budget(max_steps=100, max_samples=500)
    assert not both.used_up(state(step=49, samples=490))
    assert both.used_up(state(step=50, samples=500))
    assert budget(max_minutes=1.0).used_up(state(seconds=60.0))
    assert budget(patience=3).used_up(state(evaluations_without_gain=3))
    assert not budget().used_up(state(step=10**9, samples=10**10, seconds=1e9))


def test_the_rate_falls_with_the_time_whatever_the_speed() -> None:
    """Slow at first, or stopped for half of the time: it falls over the second half, and ends at the end."""
    optim, minutes = OptimConfig(name="adam", lr=1.0, schedule="linear", decay_fraction=0.5), budget(max_minutes=1.0)
    rates = [
        lr_scale(optim, samples, minutes.fraction(state(samples=samples, seconds=seconds)))
        for samples, seconds in ((10, 20.0), (20, 30.0), (5000, 45.0), (9000, 60.0))
    ]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("settings", "at", "expected"),
    [
        ({"max_steps": 10}, {"step": 4}, 0.4),
        ({"max_minutes": 2.0}, {"seconds": 30.0}, 0.25),
        ({"max_minutes": 2.0, "max_samples": 100}, {"seconds": 30.0, "samples": 90}, 0.9),
        ({"patience": 2}, {}, None),
    ],
)
def test_fraction_tells_how_much_is_used(settings: dict[str, Any], at: dict[str, Any], expected: float | None) -> None:
    assert budget(**settings).fraction(state(**at)) == expected
