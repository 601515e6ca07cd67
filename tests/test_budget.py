"""Budgets in steps, samples and minutes, and the horizon of schedules."""

from __future__ import annotations

from typing import Any

import pytest

from genai.budget import Budget, State
from genai.schema import OptimConfig, TrainerConfig


def budget(decay_fraction: float = 0.5, **settings: Any) -> Budget:
    optim = OptimConfig(name="adam", lr=1.0, schedule="linear", decay_fraction=decay_fraction)
    return Budget(TrainerConfig(**settings), optim, batch_size=10)


def state(**settings: Any) -> State:
    return State(**{"step": 0, "samples": 0, "seconds": 0.0, "data": "", "plan": (10, 1), "environment": {}} | settings)


def test_the_first_limit_that_is_reached_ends_the_training() -> None:
    both = budget(max_steps=100, max_samples=500)
    assert not both.used_up(state(step=49, samples=490))
    assert both.used_up(state(step=50, samples=500))
    assert both.horizon(state()) == 500
    assert budget(max_minutes=1.0).used_up(state(seconds=60.0))
    assert budget(patience=3).used_up(state(evaluations_without_gain=3))
    assert not budget().used_up(state(step=10**9, samples=10**10, seconds=1e9))


def test_minutes_give_a_horizon_that_is_measured_then_corrected_once() -> None:
    minutes = budget(max_minutes=1.0)
    now = state(step=1, samples=10, seconds=1.0)
    minutes.measure(now)
    assert now.horizon_samples is None  # too early to tell
    now.samples, now.seconds = 20, 2.0
    minutes.measure(now)
    assert now.horizon_samples == 600  # 10 a second for a minute
    now.samples, now.seconds = 300, 20.0  # it has become faster: half the horizon after a third of the time
    minutes.measure(now)
    assert (now.horizon_samples, now.horizon_corrected) == (900, True)
    now.samples, now.seconds = 450, 45.0
    minutes.measure(now)
    assert now.horizon_samples == 900  # corrected once only: schedules do not jump about


def test_a_machine_that_becomes_slower_still_ends_at_the_end_of_the_decay() -> None:
    minutes = budget(max_minutes=1.0)
    now = state(step=2, samples=20, seconds=2.0)
    minutes.measure(now)
    assert now.horizon_samples == 600
    now.samples, now.seconds = 150, 30.0  # half the time, a quarter of the horizon
    minutes.measure(now)
    assert (now.horizon_samples, now.horizon_corrected) == (300, True)


def test_a_horizon_is_that_of_its_budget() -> None:
    """A run that goes on with more time does not go on at the rate of its end, which is zero."""
    done = state(step=60, samples=600, seconds=60.0)
    budget(max_minutes=1.0).measure(done)
    assert budget(max_minutes=1.0).horizon(done) == 600
    assert budget(max_steps=120).horizon(done) == 1200  # minutes are no budget any more
    longer = budget(max_minutes=2.0)
    longer.measure(done)
    assert longer.horizon(done) == 1200
    longer.measure(done)
    assert longer.horizon(done) == 1200


@pytest.mark.parametrize(
    ("settings", "at", "expected"),
    [
        ({"max_steps": 10}, {"step": 4}, 0.4),
        ({"max_minutes": 2.0}, {"seconds": 30.0}, 0.25),
        ({"patience": 2}, {}, None),
    ],
)
def test_fraction_tells_how_much_is_used(settings: dict[str, Any], at: dict[str, Any], expected: float | None) -> None:
    assert budget(**settings).fraction(state(**at)) == expected
