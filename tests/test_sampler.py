"""Samples depend on their own seeds alone, and files hold what was drawn."""

from __future__ import annotations

import csv
import json
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
from genai.errors import CheckpointError, ConfigError, OutputError
from genai.factory import open_trained
from genai.run import RunFolder
from genai.schema import SamplingConfig
from harness import config_of, train

QUIET = Console(quiet=True)
IMAGE = Spec(kind="real", shape=(1, 8, 8), modality="image", scale=(127.5,), offset=(127.5,),
             cond={"label": label_spec(3, ("cat", "dog", "42"))})  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gan" / "一 次, (训练)=1"
    train(
        config_of(
            "gan",
            folder,
            "data=digits",
            "net.width=8",
            "trainer.max_minutes=null",
            "trainer.max_steps=3",
            "trainer.ema_rampup=10",
        )
    )
    return folder


def drawn(run: Path, out: Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    genai.sample(run, out=out, format="npz", console=QUIET, **options)
    arrays = np.load(out / "samples.npz", allow_pickle=False)
    return arrays["samples"], arrays["labels"]


def test_a_sample_does_not_depend_on_how_many_were_asked_for(run: Path, tmp_path: Path) -> None:
    few, labels = drawn(run, tmp_path / "a", count=5, seed=3, batch_size=16)
    many, more_labels = drawn(run, tmp_path / "b", count=40, seed=3, batch_size=16)
    assert np.array_equal(few, many[:5])
    assert np.array_equal(labels, more_labels[:5])
    other, _ = drawn(run, tmp_path / "c", count=5, seed=4, batch_size=16)
    assert not np.array_equal(few, other)


def test_batch_sizes_differ_by_a_grey_level_at_most(run: Path, tmp_path: Path) -> None:
    one, _ = drawn(run, tmp_path / "a", count=20, batch_size=1)
    many, _ = drawn(run, tmp_path / "b", count=20, batch_size=64)
    assert np.abs(one.astype(int) - many.astype(int)).max() <= 1


def test_labels_are_named_by_index_or_name_and_share_seeds(run: Path, tmp_path: Path) -> None:
    samples, labels = drawn(run, tmp_path / "a", count=4, labels=["3", "7"])
    assert samples.shape == (8, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert labels.tolist() == [3] * 4 + [7] * 4
    alone, _ = drawn(run, tmp_path / "b", count=4, labels=["7"])
    assert np.array_equal(alone, samples[4:])


def test_names_win_over_indices_and_wrong_ones_are_told() -> None:
    assert sampler.label_index(IMAGE, "dog") == 1
    assert sampler.label_index(IMAGE, "0") == 0
    assert sampler.label_index(IMAGE, "42") == 2
    with pytest.raises(ConfigError, match="there are 3 classes"):
        sampler.label_index(IMAGE, "3")
    with pytest.raises(ConfigError, match="did you mean 'cat'"):
        sampler.label_index(IMAGE, "cta")
    with pytest.raises(ConfigError, match="without labels"):
        sampler.label_index(Spec(kind="real", shape=(2,), modality="points"), "0")


def test_files_hold_what_the_archive_holds(run: Path, tmp_path: Path) -> None:
    samples, _ = drawn(run, tmp_path / "npz", count=6, seed=1)
    out = genai.sample(run, out=tmp_path / "files", count=6, seed=1, console=QUIET)
    for i, expected in enumerate(samples):
        picture = Image.open(out / f"{i:05d}.png")
        assert np.array_equal(np.asarray(picture), expected[..., 0])
        assert picture.info["genai:seed"] == "1"  # type: ignore[attr-defined]
        assert picture.info["genai:step"] == "3"  # type: ignore[attr-defined]
    record = json.loads((out / "samples.json").read_text())
    assert record["count"] == 6
    assert record["seed"] == 1
    assert record["step"] == 3
    assert record["checkpoint_sha256"] == picture.info["genai:checkpoint"]  # type: ignore[attr-defined]
    assert (out / "grid.png").is_file()


def test_an_interpolation_leads_through_the_samples_of_its_seed_and_back(run: Path, tmp_path: Path) -> None:
    samples, _ = drawn(run, tmp_path / "a", count=3, seed=2, labels=["1", "4"])
    path, labels = drawn(run, tmp_path / "b", count=3, seed=2, labels=["1", "4"], task="interpolate")
    assert path.shape == (2 * 3 * 8, 8, 8, 1)
    assert labels.tolist() == [1] * 24 + [4] * 24
    assert np.abs(path[::8].astype(int) - samples.astype(int)).max() <= 1
    steps = np.abs(np.diff(path[:25:4].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (steps > 0).all()


def test_an_interpolation_is_written_as_strips_and_a_closed_gif_for_each_label(run: Path, tmp_path: Path) -> None:
    out = genai.sample(run, "sampling.frames=5", count=4, labels=["1", "4"], task="interpolate", out=tmp_path / "o",
                       console=QUIET)  # fmt: skip
    record = json.loads((out / "samples.json").read_text())
    assert record["files"] == ["grid.png", "00000.gif", "00001.gif"]
    assert (record["count"], record["options"]["task"]) == (40, "interpolate")
    with Image.open(out / "00001.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (20, (128, 128), 0)
    with Image.open(out / "grid.png") as grid:
        assert grid.size == (6 * 58 + 2, 8 * 58 + 2)  # five frames and the next sample; four strips for each label
    genai.sample(run, count=1, out=out, console=QUIET)
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "grid.png", "samples.json"]


def test_an_interpolation_needs_two_samples_and_a_model_that_can(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-n 2"):
        genai.sample(run, count=1, task="interpolate", out=tmp_path / "o", console=QUIET)
    trained = open_trained(run, threads=1)
    plan = sampler.plan(trained.spec, seed=0, count=2)
    unable: Any = torch.nn.Identity()
    unable.spec = trained.model.spec
    with pytest.raises(ConfigError, match="models that do: gan"):
        sampler.draw_paths(unable, plan, 2, trained.runtime, SamplingConfig())


def test_sampling_needs_neither_the_data_nor_the_place_of_the_run(run: Path, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(run, tmp_path / "elsewhere" / "run")
    before, _ = drawn(run, tmp_path / "a", count=3)
    after, _ = drawn(moved, tmp_path / "b", count=3)
    from_checkpoint, _ = drawn(next(moved.glob("checkpoints/step_*")), tmp_path / "c", count=3)
    assert np.array_equal(before, after)
    assert np.array_equal(before, from_checkpoint)
    for path in [moved / "config.json", *moved.glob("checkpoints/*/config.json")]:
        assert json.loads(path.read_text())["data"]["name"] == "digits"


def test_raw_weights_differ_from_their_average(run: Path, tmp_path: Path) -> None:
    average, _ = drawn(run, tmp_path / "a", count=3)
    raw, _ = drawn(run, tmp_path / "b", count=3, raw=True)
    assert not np.array_equal(average, raw)


@pytest.mark.parametrize("name", ["config.json", "spec.json", "run.json"])
def test_any_change_in_a_run_is_found_when_it_is_opened(name: str, run: Path, tmp_path: Path) -> None:
    import shutil

    for change in ("delete", "truncate", "edit"):
        broken = shutil.copytree(run, tmp_path / change)
        target = broken / name
        if change == "delete":
            target.unlink()
        elif change == "truncate":
            target.write_bytes(target.read_bytes()[:-3])
        else:
            target.write_bytes(target.read_bytes().replace(b'"digits"', b'"ring8"').replace(b'"image"', b'"points"'))
        with pytest.raises(CheckpointError):
            genai.sample(broken, count=1, out=tmp_path / "out", console=QUIET)


def test_a_class_name_with_a_line_break_is_drawn() -> None:
    pictures = np.zeros((2, 8, 8, 1), dtype=np.uint8)
    broken = writers.grid(pictures, [0, 1], ["cat\nblack", "\x1b[31mdog"])
    plain = writers.grid(pictures, [0, 1], ["cat black", "[31mdog"])
    assert broken.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["00000.png", "grid.png", "samples.json"])
def test_a_file_that_no_earlier_call_wrote_is_not_overwritten(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="overwritten") as caught:
        genai.sample(run, count=2, out=tmp_path, console=QUIET)
    assert caught.value.path == tmp_path / name
    assert (tmp_path / name).read_bytes() == b"mine"
    (tmp_path / name).rename(tmp_path / "mine.png")
    for count in (4, 2):  # what it wrote itself may go
        genai.sample(run, count=count, out=tmp_path, console=QUIET)
    assert sorted(path.name for path in tmp_path.glob("0*.png")) == ["00000.png", "00001.png"]
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_a_home_folder_that_the_shell_left_as_typed_is_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert genai.sample(run, count=1, out="~/new", console=QUIET) == tmp_path / "home" / "new"
    (tmp_path / "~").mkdir()
    assert genai.sample(run, count=1, out="~/new", console=QUIET).resolve() == tmp_path / "~" / "new"


def test_samples_are_not_written_among_the_files_of_a_checkpoint(run: Path) -> None:
    (checkpoint,) = (run / "checkpoints").glob("step_*")
    with pytest.raises(OutputError, match="holds nothing else"):
        genai.sample(run, count=2, out=checkpoint, console=QUIET)
    genai.sample(run, count=2, out=run / "samples" / "after", console=QUIET)


@pytest.mark.parametrize("name", [".DS_Store", "._model.safetensors", "Thumbs.db"])
def test_what_a_file_manager_leaves_in_a_checkpoint_does_no_harm(run: Path, tmp_path: Path, name: str) -> None:
    (checkpoint,) = (run / "checkpoints").glob("step_*")
    (checkpoint / name).write_bytes(b"litter")
    try:
        genai.sample(run, count=2, out=tmp_path, console=QUIET)
    finally:
        (checkpoint / name).unlink()


def test_impossible_output_is_an_error_before_anything_is_drawn(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        genai.sample(run, out=tmp_path / "file" / "below", console=QUIET)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        genai.sample(tmp_path, console=QUIET)


def test_a_grid_has_a_row_for_each_class() -> None:
    levels = np.repeat(np.arange(3, dtype=np.uint8) * 100, 4)
    order = np.random.default_rng(0).permutation(12)
    pictures = np.broadcast_to(levels[order][:, None, None, None], (12, 8, 8, 1)).copy()
    grid = np.asarray(writers.grid(pictures, (levels[order] // 100).tolist(), ("a", "b", "c")).convert("L"))
    side = 2 + 8 * 7
    for row in range(3):
        tiles = grid[2 + row * side + 20, -4 * side :]
        assert set(tiles.tolist()) == {row * 100, 255}


def test_points_are_written_in_data_units(tmp_path: Path) -> None:
    folder = tmp_path / "points"
    train(config_of("gan", folder, "data=grid25", "net.width=8", "trainer.max_minutes=null", "trainer.max_steps=2"))
    out = genai.sample(folder, count=30, out=tmp_path / "out", console=QUIET)
    with open(out / "samples.csv") as file:
        rows = list(csv.DictReader(file))
    genai.sample(folder, count=30, out=tmp_path / "npz", format="npz", console=QUIET)
    archive = np.load(tmp_path / "npz" / "samples.npz", allow_pickle=False)["samples"]
    assert archive.dtype == np.float32
    read = np.array([[float(row["x0"]), float(row["x1"])] for row in rows])
    np.testing.assert_allclose(read, archive, rtol=1e-6)


def test_data_units_undo_the_scaling() -> None:
    import torch

    spec = Spec(kind="real", shape=(2,), modality="points", scale=(2.0, 3.0), offset=(10.0, 20.0))
    assert sampler.data_units(torch.tensor([[1.0, -1.0]]), spec).tolist() == [[12.0, 17.0]]
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    image = Spec(kind="real", shape=(1, 16, 16), modality="image", scale=(127.5,), offset=(127.5,))
    assert torch.equal(sampler.data_units((levels - 127.5) / 127.5, image).float(), levels)
    assert sampler.data_units(torch.tensor([[[[9.0]]]]), image).item() == 255


def test_an_unconditional_model_has_no_labels(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = ["data=digits", "net.width=8", "model.conditional=false", "trainer.max_steps=1"]
    train(config_of("gan", folder, *overrides))
    out = genai.sample(folder, count=3, out=tmp_path / "out", format="npz", console=QUIET)
    assert np.load(out / "samples.npz", allow_pickle=False).files == ["samples"]
    with pytest.raises(ConfigError, match="without labels"):
        genai.sample(folder, count=3, labels=["3"], out=tmp_path / "out", console=QUIET)
    assert "pair_sign" in genai.evaluate(folder, console=QUIET)


def test_the_api_takes_runs_numbers_and_nothing_silly(run: Path, tmp_path: Path) -> None:
    opened = RunFolder.read(run)
    out = genai.sample(opened, count=2, labels=[3, "7"], step=3, out=tmp_path / "out", format="npz", console=QUIET)
    assert np.load(out / "samples.npz", allow_pickle=False)["labels"].tolist() == [3, 3, 7, 7]
    for wrong in ({"count": 0}, {"labels": "12"}, {"format": "zip"}, {"seed": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            genai.sample(run, out=tmp_path / "never", console=QUIET, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "never").exists()


def test_names_that_no_font_has_become_numbers_and_long_ones_are_cut() -> None:
    pictures = np.zeros((2, 8, 8, 1), np.uint8)
    mixed = writers.grid(pictures, [0, 1], ["cat", "\ue001"])
    assert np.array_equal(np.asarray(mixed), np.asarray(writers.grid(pictures, [0, 1], ["cat", "1"])))
    long = writers.grid(pictures, [0, 1], ["cat", "d" * 500])
    assert np.array_equal(np.asarray(long), np.asarray(writers.grid(pictures, [0, 1], ["cat", "d" * 28 + ".."])))
    private = writers.grid(pictures, [0, 1], ["\ue000", "\ue001"])
    assert np.array_equal(np.asarray(private), np.asarray(writers.grid(pictures, [0, 1], ["0", "1"])))


def test_samples_are_drawn_in_full_precision_unless_asked_otherwise(run: Path, tmp_path: Path) -> None:
    """A model that was trained in bfloat16 draws within a grey level of the contract on every device."""
    folder = tmp_path / "bf16"
    train(config_of("gan", folder, "data=digits", "net.width=8", "dtype=bf16", "trainer.max_steps=1"))
    assert open_trained(folder).runtime.precision == "fp32"
    assert open_trained(folder, dtype="bf16").runtime.precision == "bf16"
