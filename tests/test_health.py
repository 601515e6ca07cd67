"""Alarms over what is logged, and the diversity of previews."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genai import api
from genai.console import Console
from genai.contract import Alarm, Batch
from genai.health import Diversity, Watch
from harness import config_of, metrics


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
    """Two classes of standard normal values around 0 and 100, one after the other as folders lie."""

    streams = False

    def __len__(self) -> int:
        return 4000

    def fetch(self, index: torch.Tensor) -> Batch:
        label = (index >= 2000).long()
        x = torch.randn(len(self), 8, generator=torch.Generator().manual_seed(1))[index] + 100 * label[:, None]
        return Batch(x=x, cond={"label": label})

    def to(self, device: torch.device) -> Real:
        return self


def test_samples_like_the_data_have_a_diversity_of_one_and_copies_of_zero() -> None:
    labels = [i % 2 for i in range(400)]
    diversity = Diversity(Real(), labels)
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(2)) + 100 * torch.tensor(labels)[:, None]
    assert diversity.of([x[:300], x[300:]]) == pytest.approx(1.0, abs=0.05)
    assert diversity.of([100.0 * torch.tensor(labels)[:, None].expand(-1, 8)]) == 0.0  # one sample a class, repeated
    assert diversity.of([0.5 * x - 50 * torch.tensor(labels)[:, None]]) == pytest.approx(0.5, abs=0.05)
    assert Diversity(Real(), None).of([x]) == pytest.approx(1.0, abs=0.05)


def test_data_that_does_not_vary_has_no_diversity_to_compare_with() -> None:
    class Constant(Real):
        def fetch(self, index: torch.Tensor) -> Batch:
            return Batch(x=torch.ones(len(index), 8))

    assert Diversity(Constant(), None).of([torch.randn(10, 8)]) is None


# -- trainings that go well, and that do not ---------------------------------------------------------------------------


def warnings_of(folder: Path, *overrides: str) -> str:
    """What a training warned of; its log holds the same."""
    told = io.StringIO()
    every = ["trainer.max_minutes=null", "trainer.eval_every=100", "trainer.log_every=10"]
    if not any(text.startswith("trainer.preview_every") for text in overrides):
        every.append("trainer.preview_every=100")
    config = config_of("gan", folder, *every, *overrides)
    api.train_config(config, console=Console(quiet=True, stream=told))
    lines = [line.removeprefix("warning: ") for line in told.getvalue().splitlines() if line.startswith("warning: ")]
    logged = (folder / "log.txt").read_text()
    assert all(line.split(": ", 1)[-1] in logged for line in lines)
    return "\n".join(lines)


def five_pictures(folder: Path) -> Path:
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(folder / f"{i}.png")
    return folder


def test_a_set_smaller_than_a_batch_is_trained_on_whole_with_a_warning(tmp_path: Path) -> None:
    path = five_pictures(tmp_path / "five")
    told = warnings_of(tmp_path / "run", f"data.path={path}", "net.width=8", "trainer.max_steps=3")
    assert "trainer.batch_size is 32, there are no more than 4 samples" in told
    assert "add data" in told
    assert metrics(tmp_path / "run")[-1]["samples"] == 12
    assert warnings_of(tmp_path / "good", "data=digits", "net.width=8", "trainer.max_steps=3") == ""


def test_previews_are_measured_where_they_are_drawn(tmp_path: Path) -> None:
    warnings_of(tmp_path / "run", "data=digits", "net.width=8", "trainer.max_steps=4", "trainer.preview_every=2")
    found = [line["preview/diversity"] for line in metrics(tmp_path / "run") if "preview/diversity" in line]
    assert len(found) == 2
    assert all(0 < value < 3 for value in found)


@pytest.mark.slow
def test_a_rate_too_large_is_told_with_its_remedy(tmp_path: Path) -> None:
    told = warnings_of(tmp_path / "run", "data=digits", "net.patch=1", "optim.lr=0.05", "trainer.max_steps=700")
    assert "the generator has stopped learning - start again with a smaller optim.lr" in told


@pytest.mark.slow
def test_a_discriminator_without_a_penalty_is_told_with_its_remedy(tmp_path: Path) -> None:
    settings = ["data=digits", "net.patch=1", "model.loss=wgan_gp", "model.penalty=none", "trainer.max_steps=700"]
    assert "too steep to learn from - start again with model.penalty=gp" in warnings_of(tmp_path / "run", *settings)


@pytest.mark.slow
def test_five_pictures_alone_are_told_with_their_remedy(tmp_path: Path) -> None:
    path = five_pictures(tmp_path / "five")
    told = warnings_of(tmp_path / "run", f"data.path={path}", "trainer.max_steps=1000")
    assert "knows the training data by heart - add data" in told
    assert "model.augment" not in told  # it is on already


@pytest.mark.slow
def test_a_training_that_goes_well_is_silent(tmp_path: Path) -> None:
    settings = ["experiment=gan/digits", "trainer.max_samples=null", "trainer.max_steps=1500"]
    assert warnings_of(tmp_path / "run", *settings) == ""
