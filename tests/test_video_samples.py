"""Clips that are drawn: GIFs against what Pillow reads back, grids by their pixels, and all tasks of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import genai
from genai import factory, sampler, writers
from genai.console import Console
from genai.contract import FirstStage, Spec, label_spec
from genai.data.codec import Codec
from genai.data.source import open_data
from genai.errors import ConfigError, DataError, OutputError
from harness import config_of, train
from pictures import config

QUIET = Console(quiet=True)
COLOUR = Spec(kind="real", shape=(3, 16, 32, 32), modality="video", scale=(127.5,), offset=(127.5,))
TILE, GAP = 64, 2  # pixels of a frame of 32 in a grid: the next whole factor from 56
RANDOM = np.random.RandomState(0)


def few_colours(*shape: int, colours: int = 200) -> np.ndarray:
    """Clips (N, C, T, H, W) of so few colours that a GIF keeps them all."""
    count, channels, *rest = shape
    palette = RANDOM.randint(0, 256, (colours, channels)).astype(np.uint8)
    return np.moveaxis(palette[RANDOM.randint(0, colours, (count, *rest))], -1, 1)


def numbered(count: int, length: int) -> np.ndarray:
    """Clips (N, 3, T, 32, 32) whose frames say which they are: red the clip, green the frame."""
    clips = np.zeros((count, 3, length, 32, 32), np.uint8)
    clips[:, 0] = 4 * np.arange(count)[:, None, None, None]
    clips[:, 1] = 4 * np.arange(length)[None, :, None, None]
    return clips


def cells(path: Path, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """(clip, frame) of each cell of a grid of `numbered`, which ends at the lower right edge."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert len(pixels) == rows * (TILE + GAP) + GAP
    left = pixels.shape[1] - columns * (TILE + GAP)
    assert left >= GAP
    found = []
    for row in range(rows):
        top = GAP + row * (TILE + GAP)
        found.append([tuple(pixels[top + 9, left + column * (TILE + GAP) + 9, :2] // 4) for column in range(columns)])
    return [[(int(clip), int(frame)) for clip, frame in row] for row in found]


def frames_of(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """The frames (H, W, 3) of a GIF and the milliseconds of each."""
    with Image.open(path) as opened:
        read = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(opened)]
    return [pixels for pixels, _ in read], [duration for _, duration in read]


# -- units and files ---------------------------------------------------------------------------------------------------


def test_grey_levels_come_back_from_model_units_and_never_wrap_around() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 4, 8, 8)
    found = sampler.data_units((levels.float() - 127.5) / 127.5, COLOUR)
    assert found.dtype == torch.uint8
    assert torch.equal(found, levels)
    assert sampler.data_units(torch.tensor([-1.5, 2.0]).view(1, 1, 2, 1, 1), COLOUR).flatten().tolist() == [0, 255]


@pytest.mark.parametrize(("channels", "height", "width", "factor"), [(3, 32, 32, 4), (1, 20, 12, 11), (3, 130, 140, 1)])
def test_a_written_gif_is_what_pillow_reads_back(
    tmp_path: Path, channels: int, height: int, width: int, factor: int
) -> None:
    clips = few_colours(2, channels, 5, height, width)
    spec = replace(COLOUR, shape=clips.shape[1:])
    assert writers.write(tmp_path, clips, None, spec, {}) == ["grid.png", "00000.gif", "00001.gif"]
    for clip, name in zip(clips, ("00000.gif", "00001.gif"), strict=True):
        frames, milliseconds = frames_of(tmp_path / name)
        expected = np.broadcast_to(np.moveaxis(clip, 0, -1), (5, height, width, 3)).repeat(factor, 1).repeat(factor, 2)
        assert min(expected.shape[1:3]) >= 128
        assert np.array_equal(frames, expected)
        assert milliseconds == [80] * 5
        with Image.open(tmp_path / name) as opened:
            assert opened.info["loop"] == 0


def test_a_frame_that_stands_still_keeps_its_time(tmp_path: Path) -> None:
    clip = few_colours(1, 3, 4, 32, 32)
    clip[:, :, 2] = clip[:, :, 1]
    writers.write(tmp_path, clip, None, COLOUR, {})
    assert sum(frames_of(tmp_path / "00000.gif")[1]) == 4 * 80


def test_an_archive_gives_the_clips_back_with_their_labels(tmp_path: Path) -> None:
    clips = few_colours(3, 3, 5, 8, 9)
    spec = replace(COLOUR, shape=(3, 5, 8, 9), cond={"label": label_spec(2, ("a", "b"))})
    assert writers.write(tmp_path, clips, [0, 1, 1], spec, {}, npz=True) == ["samples.npz"]
    found = np.load(tmp_path / "samples.npz", allow_pickle=False)
    assert (found["samples"].dtype, found["samples"].shape) == (np.uint8, (3, 5, 8, 9, 3))
    assert np.array_equal(found["samples"], clips.transpose(0, 2, 3, 4, 1))
    assert found["labels"].tolist() == [0, 1, 1]
    np.savez(tmp_path / "again.npz", clips=found["samples"], labels=found["labels"])
    data = open_data(config(tmp_path / "again.npz", valid_fraction=0.0), predicts="data")
    assert np.array_equal(data.train.stored.numpy(), clips)  # type: ignore[attr-defined]


# -- grids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (8, list(range(8))), (16, [0, 2, 4, 6, 9, 11, 13, 15]), (57, list(range(0, 57, 8)))],
)
def test_a_clip_is_a_row_of_evenly_spaced_frames(tmp_path: Path, length: int, shown: list[int]) -> None:
    spec = replace(COLOUR, shape=(3, length, 32, 32))
    writers.write(tmp_path, numbered(3, length), None, spec, {"genai:seed": "3"})
    assert cells(tmp_path / "grid.png", 3, len(shown)) == [[(clip, frame) for frame in shown] for clip in range(3)]
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.info["genai:seed"] == "3"


def test_rows_are_by_class_and_a_name_stands_where_a_class_begins(tmp_path: Path) -> None:
    spec = replace(COLOUR, shape=(3, 2, 32, 32), cond={"label": label_spec(3, ("one", "two", "three"))})
    writers.write(tmp_path, numbered(5, 2), [2, 0, 1, 2, 0], spec, {})
    found = cells(tmp_path / "grid.png", 5, 2)
    assert [row[0][0] for row in found] == [1, 4, 2, 0, 3]
    assert [row[1] for row in found] == [(clip, 1) for clip in (1, 4, 2, 0, 3)]
    with Image.open(tmp_path / "grid.png") as grid:
        margin = np.asarray(grid.convert("L"))[:, : grid.width - 2 * (TILE + GAP) - GAP]
    rows = [margin[GAP + row * (TILE + GAP) : (row + 1) * (TILE + GAP)].min() < 100 for row in range(5)]
    assert rows == [True, False, True, True, False]


def test_what_each_was_made_from_stands_above_it(tmp_path: Path) -> None:
    clips = numbered(6, 4)
    spec = replace(COLOUR, shape=(3, 4, 32, 32))
    assert len(writers.write(tmp_path, clips[3:], None, spec, {}, beside=clips[:3])) == 4
    rows = [row[0][0] for row in cells(tmp_path / "grid.png", 6, 4)]
    assert rows == [0, 3, 1, 4, 2, 5]
    assert frames_of(tmp_path / "00000.gif")[0][0][0, 0, 0] == 4 * 3  # what was made


def test_a_grid_holds_fifty_clips_and_the_folder_all(tmp_path: Path) -> None:
    spec = replace(COLOUR, shape=(3, 8, 32, 32), cond={"label": label_spec(2, ("a", "b"))})
    clips = np.repeat(numbered(1, 8), 52, axis=0)
    assert len(writers.write(tmp_path, clips, None, spec, {})) == 53
    cells(tmp_path / "grid.png", 50, 8)
    for labels, beside, rows in (([0] * 30 + [1] * 22, None, 50), (None, clips, 50)):
        writers.write_overview(tmp_path / "other.png", clips, labels, spec, {}, beside)
        cells(tmp_path / "other.png", rows, 8)


def test_clips_on_a_path_stay_one_by_one_in_order(tmp_path: Path) -> None:
    spec = replace(COLOUR, shape=(3, 2, 32, 32))
    names = writers.write(tmp_path, numbered(16, 2), [0] * 16, spec, {}, along=(4, 4))
    assert names == ["grid.png", *(f"{i:05d}.gif" for i in range(16))]
    rows = [row[0][0] for row in cells(tmp_path / "grid.png", 12, 2)]
    assert rows == [int(i * 16 / 12) for i in range(12)]


def test_previews_are_of_few_clips() -> None:
    labelled = replace(COLOUR, cond={"label": label_spec(3)})
    assert sampler.preview_plan(labelled, labelled).labels == (0, 0, 1, 1, 2, 2)
    assert len(sampler.preview_plan(COLOUR, COLOUR)) == 8
    assert len(sampler.preview_plan(replace(COLOUR, modality="latent"), COLOUR)) == 8  # a model of latents of clips


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips.npz"
    np.savez(path, clips=few_colours(40, 3, 4, 8, 8).transpose(0, 2, 3, 4, 1), labels=np.arange(40) % 2)
    return path


def small(path: Path) -> tuple[str, ...]:
    return (f"data.path={path}", "net=mlp", "net.width=8", "trainer.max_minutes=null", "trainer.max_steps=2",
            "trainer.batch_size=8", "dtype=fp32")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gan"
    train(config_of("gan", folder, *small(clips), "trainer.preview_every=1"))
    return folder


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    train(config_of("vae", folder, *small(clips), "model.prior=none", "trainer.preview_every=1"))
    return folder


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def test_a_run_previews_and_draws_clips_and_replaces_only_its_own_files(run: Path, tmp_path: Path) -> None:
    tile = 56 + GAP
    assert size_of(run / "previews" / "00000002.png")[1] == 4 * tile + GAP  # two of each of two classes
    out = genai.sample(run, count=2, labels=["1"], out=tmp_path / "out", console=QUIET)
    record = json.loads((out / "samples.json").read_text())
    assert record["files"] == ["grid.png", "00000.gif", "00001.gif"]
    archive = genai.sample(run, count=2, labels=["1"], out=tmp_path / "npz", format="npz", console=QUIET)
    found = np.load(archive / "samples.npz", allow_pickle=False)
    assert found["samples"].shape == (2, 4, 8, 8, 3)
    first = np.array(frames_of(out / "00000.gif")[0])
    assert np.array_equal(first[:, ::16, ::16], found["samples"][0])  # 64 pixels, so 64 colours at most
    genai.sample(run, count=1, out=out, console=QUIET)
    assert sorted(path.name for path in out.iterdir()) == ["00000.gif", "grid.png", "samples.json"]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "00000.gif").write_bytes(b"mine")
    with pytest.raises(OutputError, match="would be overwritten"):
        genai.sample(run, count=1, out=tmp_path / "foreign", console=QUIET)


def test_every_task_of_a_first_stage_works_on_clips_of_any_size_and_length(first_stage: Path, tmp_path: Path) -> None:
    assert size_of(first_stage / "previews" / "00000002.png")[1] == 2 * 4 * (56 + GAP) + GAP  # of 4 held-out clips
    np.savez(tmp_path / "own.npz", clips=few_colours(3, 3, 6, 16, 12).transpose(0, 2, 3, 4, 1))
    for task, count, files in (("reconstruct", None, 3), ("interpolate", 3, 9), ("traverse", 2, 6)):
        out = genai.sample(first_stage, "sampling.frames=3", task=task, input=tmp_path / "own.npz",  # type: ignore[arg-type]
                           count=count, out=tmp_path / task, console=QUIET)  # fmt: skip
        assert sorted(path.name for path in out.glob("*.gif")) == [f"{i:05d}.gif" for i in range(files)]
        assert (out / "grid.png").is_file()
    encoded = genai.sample(first_stage, task="encode", out=tmp_path / "encode", console=QUIET)
    assert np.load(encoded / "samples.npz", allow_pickle=False)["samples"].shape == (4, 32)


def test_other_data_than_a_model_learned_is_refused_in_words(run: Path, clips: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(DataError, match=r"trained on video \(3, 4, 8, 8\), the data are image"):
        genai.evaluate(run, f"data.path={tmp_path / 'pictures.npz'}", console=QUIET)
    with pytest.raises(DataError, match=r"type data\.frames, data\.size and data\.channels as in training"):
        genai.evaluate(run, f"data.path={clips}", "data.frames=2", console=QUIET)
    np.savez(tmp_path / "short.npz", clips=np.zeros((4, 2, 8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"data\.frames is 4, the clips have 2"):
        genai.evaluate(run, f"data.path={tmp_path / 'short.npz'}", console=QUIET)


def test_a_codec_of_clips_says_how_others_are_brought_to_its_own(first_stage: Path, clips: Path) -> None:
    trained = factory.open_trained(first_stage, threads=1)
    assert isinstance(trained.model, FirstStage)
    codec = Codec(trained.model, trained.spec, "", torch.device("cpu"), torch.float32)
    data = factory.open_dataset(replace(trained.config, data=config(clips)), codec)
    assert data.spec.modality == "latent"
    longer = replace(trained.spec, shape=(3, 9, 12, 10))
    with pytest.raises(ConfigError, match=r"\(3, 9, 12, 10\) - type data\.frames=4 data\.size=8"):
        codec.encoded(longer)
    with pytest.raises(ConfigError, match="name other data, or another run"):
        codec.encoded(replace(trained.spec, shape=(3, 2, 8, 8)))
