"""Alarms over what is logged, and the diversity of previews."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from genai.contract import Alarm, Batch
from genai.health import Diversity, Watch


def sign(terms: Mapping[str, float]) -> float:
    return terms["d/sign"]


ALARM = Alarm(name="the sign", measure=sign, above=0.9, steps=1000, says="D has won - type this")


def told(values: list[float], every: int = 100, alarm: Alarm = ALARM) -> list[int]:
    """The readings at which something was said."""
    watch = Watch([alarm])
    return [i for i, value in enumerate(values) if watch.read({"d/sign": value}, i * every)]


def test_an_alarm_rings_once_after_its_stretch_of_steps() -> None:
    assert told([1.0] * 40) == [10]


def test_an_alarm_rings_again_after_a_recovery() -> None:
    assert told([1.0] * 15 + [0.0] * 15 + [1.0] * 15) == [10, 39]


def test_the_mean_counts_and_not_single_values() -> None:
    assert told([1.0, 0.5] * 30) == []
    assert told([1.0] * 9 + [0.5] + [1.0] * 9) == [10]


def test_a_bound_from_below() -> None:
    low = Alarm(name="the sign", measure=sign, below=0.3, steps=1000, says="collapsed")
    assert told([0.5] * 12 + [0.0] * 12, alarm=low) == [16]


def test_the_message_names_what_is_measured_its_value_and_the_remedy() -> None:
    watch = Watch([ALARM])
    watch.read({"d/sign": 0.95}, 0)
    assert watch.read({"d/sign": 0.95}, 1000) == ["the sign is 0.95 over 1,000 steps: D has won - type this"]


def test_other_terms_say_nothing() -> None:
    watch = Watch([ALARM])
    assert not any(watch.read({"g/loss": 1.0}, i * 1000) for i in range(5))


class Real:
    """Two classes of standard normal values around 0 and 100."""

    streams = False

    def __len__(self) -> int:
        return 4000

    def fetch(self, index: torch.Tensor) -> Batch:
        label = index % 2
        x = torch.randn(len(index), 8, generator=torch.Generator().manual_seed(1)) + 100 * label[:, None]
        return Batch(x=x, cond={"label": label})

    def to(self, device: torch.device) -> Real:
        return self


def test_samples_like_the_data_have_a_diversity_of_one_and_copies_of_zero() -> None:
    labels = [i % 2 for i in range(400)]
    diversity = Diversity(Real(), labels, len(labels))
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(2)) + 100 * torch.tensor(labels)[:, None]
    assert diversity.of([x[:300], x[300:]]) == pytest.approx(1.0, abs=0.05)
    assert diversity.of([100.0 * torch.tensor(labels)[:, None].expand(-1, 8)]) == 0.0  # one sample a class, repeated
    assert diversity.of([0.5 * x - 50 * torch.tensor(labels)[:, None]]) == pytest.approx(0.5, abs=0.05)
    without = Diversity(Real(), None, len(labels))
    assert without.of([x]) == pytest.approx(1.0, abs=0.05)
