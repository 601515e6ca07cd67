"""What a model is told in words: of a probe that draws the bytes that reach it, what is asked for and what is shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genai
from genai import sampler, writers
from genai.console import Console
from genai.contract import Spec, label_spec
from genai.data.prompts import prompt_ids, prompt_spec
from genai.device import mix
from genai.errors import ConfigError, DataError
from genai.factory import open_dataset, open_trained
from genai.schema import SamplingConfig
from harness import config_of, train

QUIET = Console(quiet=True)
SHAPES = ("heart", "star", "circle")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "painter"
    train(config_of("probe_painter", folder, "trainer.max_steps=20", "trainer.preview_every=20"))
    return folder


@pytest.fixture(scope="module")
def length(run: Path) -> int:
    return open_trained(run, threads=1).spec.prompt_length


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "genai", *arguments], capture_output=True, text=True, timeout=120)


def drawn(run: Path, out: Path, **options: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The values of each sample one after the other, and all arrays."""
    genai.sample(run, out=out, format="npz", console=QUIET, **options)
    with np.load(out / "samples.npz", allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return arrays["samples"].reshape(len(arrays["samples"]), -1), arrays


def reached(samples: np.ndarray, length: int) -> list[str]:
    return [bytes(row[:length]).rstrip(b"\0").decode() for row in samples]


# -- what reaches the model --------------------------------------------------------------------------------------------


def test_each_prompt_gets_as_many_samples_that_differ_in_the_prompt_alone(
    run: Path, tmp_path: Path, length: int
) -> None:
    prompts = ["red heart", "図 e\u0301", ""]
    samples, arrays = drawn(run, tmp_path / "a", prompts=prompts, count=4, seed=3)
    told = ["red heart", "図 é", ""]
    assert reached(samples, length) == [prompt for prompt in told for _ in range(4)]
    assert arrays["prompts"].tolist() == [prompt for prompt in told for _ in range(4)]
    assert arrays["prompts"].dtype.kind == "U"
    assert samples[:, length].tolist() == arrays["labels"].tolist() == [0, 1, 2, 0] * 3
    noises = samples[:, length + 1].reshape(3, 4)
    assert (noises == noises[0]).all()
    assert len(set(noises[0].tolist())) == 4
    again, _ = drawn(run, tmp_path / "b", prompts=prompts[1:2], count=2, seed=3)
    assert np.array_equal(again, samples[4:6])
    other, _ = drawn(run, tmp_path / "c", prompts=prompts, count=4, seed=4)
    unequal = (other != samples).any(axis=0)
    assert unequal.tolist() == [i == length + 1 for i in range(64)]


def test_one_sample_a_prompt_is_what_is_drawn_by_default(run: Path, tmp_path: Path, length: int) -> None:
    samples, _ = drawn(run, tmp_path, prompts=["a", "b", "c"], batch_size=2)
    assert reached(samples, length) == ["a", "b", "c"]


def test_a_model_of_prompts_is_told_none_where_none_is_given(run: Path, tmp_path: Path, length: int) -> None:
    samples, arrays = drawn(run, tmp_path)
    assert len(samples) == 16
    assert not samples[:, :length].any()
    assert "prompts" not in arrays
    record = json.loads((tmp_path / "samples.json").read_text())
    assert (record["prompts"], record["options"]["prompt"]) == (None, None)
    assert samples[:, length + 1].any()  # the negative control: the same row shows what is not nothing


def test_each_prompt_is_drawn_with_each_label(run: Path, tmp_path: Path, length: int) -> None:
    samples, arrays = drawn(run, tmp_path, prompts=["a", "b"], labels=["star", 0], count=2)
    assert reached(samples, length) == ["a"] * 4 + ["b"] * 4
    assert samples[:, length].tolist() == arrays["labels"].tolist() == [1, 1, 0, 0] * 2
    assert len(set(samples[::2, length + 1].tolist())) == 1


def test_the_plan_of_prompts_is_that_of_each_alone() -> None:
    spec = Spec("real", (1, 8, 8), "image", cond={"label": label_spec(3), "prompt": prompt_spec(7)})
    both = sampler.plan(spec, seed=5, count=3, labels=[2, 0], prompts=["a", "b"])
    assert both.seeds == tuple(mix(5, i) for i in range(3)) * 4
    assert both.prompts == ("a",) * 6 + ("b",) * 6
    assert both.labels == (2, 2, 2, 0, 0, 0) * 2
    assert (both.prompt_length, len(both)) == (7, 12)
    chosen = both.take([7, 0])
    assert (chosen.seeds, chosen.labels, chosen.prompts) == ((mix(5, 1), mix(5, 0)), (2, 2), ("b", "a"))
    bare = sampler.plan(spec.told("label"), seed=5, count=4)
    assert (bare.prompts, bare.prompt_length, bare.labels) == (None, 0, (0, 1, 2, 0))
    assert bare.take([3]) == sampler.Plan((mix(5, 3),), (0,))


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_a_way_through_samples_keeps_to_its_prompt(run: Path, tmp_path: Path, length: int) -> None:
    options: dict[str, Any] = {"prompts": ["ab", "cd"], "labels": ["star"], "seed": 2}
    ends, _ = drawn(run, tmp_path / "a", count=3, **options)
    path, arrays = drawn(run, tmp_path / "b", count=3, task="interpolate", **options)
    assert arrays["prompts"].tolist() == ["ab"] * 24 + ["cd"] * 24
    assert reached(path, length) == arrays["prompts"].tolist()
    assert np.array_equal(path[::8], ends)
    out = genai.sample(run, out=tmp_path / "c", count=3, task="interpolate", console=QUIET, **options)
    assert sorted(path.name for path in out.iterdir()) == ["00000.gif", "00001.gif", "grid.png", "samples.json"]


def test_what_is_varied_is_told_its_caption(run: Path, tmp_path: Path, length: int) -> None:
    data = open_dataset(open_trained(run, threads=1).config, None)
    samples, arrays = drawn(run, tmp_path, task="vary", strength=1.0, count=4)
    expected = list(data.valid.captions[:4])  # type: ignore[union-attr]
    assert reached(samples, length) == arrays["prompts"].tolist() == expected
    for i in range(3):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    samples, arrays = drawn(run, tmp_path / "own", task="vary", strength=1.0, input=tmp_path)
    assert (len(samples), "prompts" in arrays) == (3, False)
    assert not samples[:, :length].any()


@pytest.mark.parametrize("task", ["reconstruct", "encode", "vary", "traverse"])
def test_a_prompt_beside_an_input_is_refused(run: Path, tmp_path: Path, task: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes the captions of its input - leave --prompt out"):
        genai.sample(run, task=task, prompts=["a"], out=tmp_path / "o", console=QUIET)
    with pytest.raises(ConfigError, match="leave --prompt out"):
        genai.sample(run, task="interpolate", input=tmp_path, prompts=["a"], out=tmp_path / "o", console=QUIET)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_refused_by_its_bytes(run: Path, tmp_path: Path, length: int) -> None:
    fitting = "é" * (length // 2) + "x" * (length % 2)
    samples, _ = drawn(run, tmp_path / "a", prompts=[f" {fitting} "])
    assert reached(samples, length) == [fitting]
    with pytest.raises(ConfigError, match=rf"has {length + 3} bytes, {length} fit - shorten it by 3") as caught:
        genai.sample(run, prompts=["a", f"{fitting}図"], out=tmp_path / "o", console=QUIET)
    assert len(caught.value.lines()) == 1


def test_a_model_without_text_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "gan"
    train(config_of("gan", folder, "data=emoji", "data.size=8", "net.width=8", "trainer.max_steps=1"))
    done = command("sample", str(folder), "--prompt", "red heart", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: this model was trained without text - leave --prompt out, or train")
    assert not (tmp_path / "out").exists()
    assert "r1" in genai.evaluate(folder, console=QUIET)


@pytest.mark.parametrize("prompts", [[], "red heart", [3]])
def test_prompts_are_a_list_of_texts(run: Path, tmp_path: Path, prompts: Any) -> None:
    with pytest.raises(ConfigError, match="labels and prompts as lists"):
        genai.sample(run, prompts=prompts, out=tmp_path / "o", console=QUIET)


def test_data_without_captions_are_no_measure_of_a_model_of_prompts(run: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "mine.npz"
    arrays = {"images": np.zeros((6, 8, 8), np.uint8), "labels": np.arange(6) % 3, "names": np.array(SHAPES)}
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="trained with captions, the data have none"):
        genai.evaluate(run, f"data.path={path}", console=QUIET)
    figures = []
    for captions in (["图" * 99] * 6, ["图" * (length // 3)] * 6, ["a"] * 6):
        np.savez(path, **arrays, captions=captions)
        figures.append(genai.evaluate(run, f"data.path={path}", console=QUIET)["mse"])
    assert figures[0] == figures[1] != figures[2]  # cut to what the model reads


# -- the command line, and files ---------------------------------------------------------------------------------------


def test_prompts_are_typed_or_read_from_a_file(run: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "prompts.txt").write_text("grey star\n\n灰色\n", encoding="utf-8")
    done = command("sample", str(run), "--prompt", "red heart", "--prompts", str(tmp_path / "prompts.txt"), "-n", "2",
                   "--out", str(tmp_path / "out"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "type --label NAME" in done.stderr
    told = [prompt for prompt in ("red heart", "grey star", "灰色") for _ in range(2)]
    record = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert record["prompts"] == told
    assert record["options"]["prompt"] == ["red heart", "grey star", "灰色"]
    assert record["count"] == 6
    for i, prompt in enumerate(told):
        with Image.open(tmp_path / "out" / f"{i:05d}.png") as picture:
            assert picture.info["genai:prompt"] == prompt
            assert reached(np.asarray(picture).reshape(1, -1), length) == [prompt]
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert "genai:prompt" not in grid.info


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_a_file_without_prompts_is_an_error_of_data(run: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_text(content)
    done = command("sample", str(run), "--prompts", str(path))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"[{path}]" in done.stderr


def test_a_run_of_prompts_is_whole(run: Path, tmp_path: Path, length: int) -> None:
    """It is drawn from elsewhere, without its data."""
    moved = shutil.copytree(run, tmp_path / "moved")
    samples, _ = drawn(moved, tmp_path / "out", prompts=["grey star"])
    assert reached(samples, length) == ["grey star"]


# -- previews ----------------------------------------------------------------------------------------------------------


def test_previews_are_of_captions_of_the_data_with_their_labels(run: Path) -> None:
    trained = open_trained(run, threads=1)
    prompts = open_dataset(trained.config, None).prompts
    assert 1 < len(prompts) < 9  # few are held out
    plan = sampler.preview_plan(trained.model.spec, trained.output, prompts)
    each = 16 // len(prompts)
    assert plan.prompts == tuple(text for text, _ in prompts for _ in range(each))
    assert plan.labels == tuple(SHAPES.index(text.split()[-1]) for text in plan.prompts)
    assert len(set(plan.seeds)) == each
    values = torch.cat(list(sampler.draw(trained.model, plan, trained.runtime, SamplingConfig(batch_size=len(plan)))))
    levels = sampler.data_units(values, trained.output).numpy()
    expected = writers.grid(np.moveaxis(levels, 1, -1), None, (), titles=plan.prompts)
    with Image.open(run / "previews" / "00000020.png") as preview:
        assert np.abs(np.asarray(preview).astype(int) - np.asarray(expected)).max() <= 1
    bare = trained.model.spec.told("label")
    assert sampler.preview_plan(bare, bare, prompts) == sampler.preview_plan(bare, bare)


def test_a_caption_that_is_longer_than_what_the_model_reads_is_drawn_as_far_as_it_goes(run: Path, length: int) -> None:
    trained = open_trained(run, threads=1)
    plan = sampler.preview_plan(trained.model.spec, trained.output, [("x" * 99, 1)])
    assert (plan.labels, len(plan)) == ((1,) * 16, 16)
    (values,) = sampler.draw(trained.model, plan, trained.runtime, SamplingConfig(batch_size=16))
    shown = sampler.data_units(values, trained.output).flatten(1)[:, :length]
    assert np.array_equal(shown.numpy(), prompt_ids(["x" * length] * 16, length))
