"""Sounds that are drawn: wav files against soundfile, spectra against where a sine must be, and all tasks of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import genai
from genai import factory, sampler, spectrogram, writers
from genai.console import Console
from genai.contract import Spec, label_spec
from genai.data.codec import Codec
from genai.errors import ConfigError, DataError, OutputError
from harness import config_of, train
from sounds import config, noise, save, sine

QUIET = Console(quiet=True)
MONO = Spec(kind="real", shape=(1, 8000), modality="audio", scale=(3000.0,), sample_rate=8000)
SMALL = ("data=spoken_digits", "data.seconds=0.05", "net=mlp", "net.width=8", "trainer.max_minutes=null")
TILE = (spectrogram.WIDTH + 2, spectrogram.HEIGHT + 2)  # with the gap


def tone(hertz: float, seconds: float = 1.0, rate: int = 8000) -> np.ndarray:
    return np.rint(sine(hertz, seconds, rate) * 32768).astype(np.int16)


# -- units and files ---------------------------------------------------------------------------------------------------


def test_levels_come_back_from_model_units_and_what_is_too_loud_never_wraps_around() -> None:
    levels = torch.arange(-32768, 32768, dtype=torch.float32).view(8, 1, 8192)
    found = sampler.data_units(levels / 3000, replace(MONO, shape=(1, 8192)))
    assert found.dtype == torch.int16
    assert torch.equal(found.float(), levels)
    loud = sampler.data_units(torch.tensor([[[20.0, -20.0, 0.0, 0.4 / 3000, 0.6 / 3000]]]), MONO)
    assert loud.tolist() == [[[32767, -32768, 0, 0, 1]]]


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (8, 16000)])
def test_a_written_wav_is_what_soundfile_reads(tmp_path: Path, channels: int, rate: int) -> None:
    values = noise(3, channels, 50)
    spec = replace(MONO, shape=(channels, 50), sample_rate=rate)
    names = writers.write(tmp_path, values, None, spec, {"genai:seed": "3"})
    assert names == ["overview.png", "00000.wav", "00001.wav", "00002.wav"]
    for value, name in zip(values, names[1:], strict=True):
        found, found_rate = soundfile.read(tmp_path / name, dtype="int16", always_2d=True)
        assert (found_rate, soundfile.info(tmp_path / name).subtype) == (rate, "PCM_16")
        assert np.array_equal(found.T, value)
    with Image.open(tmp_path / "overview.png") as overview:
        assert overview.info["genai:seed"] == "3"


def test_an_archive_holds_levels_labels_and_the_rate(tmp_path: Path) -> None:
    spec = replace(MONO, cond={"label": label_spec(2, ("a", "b"))})
    for channels, shape in ((1, (3, 50)), (2, (3, 2, 50))):
        values = noise(3, channels, 50)
        assert writers.write(tmp_path, values, [0, 1, 1], spec, {}, npz=True) == ["samples.npz"]
        found = np.load(tmp_path / "samples.npz", allow_pickle=False)
        assert (found["samples"].shape, found["samples"].dtype) == (shape, np.int16)
        assert np.array_equal(found["samples"].reshape(values.shape), values)
        assert (found["labels"].tolist(), found["sample_rate"].tolist()) == ([0, 1, 1], 8000)


# -- spectra -----------------------------------------------------------------------------------------------------------


def brightness(sounds: np.ndarray, rate: int) -> np.ndarray:
    return spectrogram.pictures(sounds, rate).astype(int).sum(axis=-1)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_sine_is_a_line_at_the_height_of_its_frequency(rate: int, part: float) -> None:
    (picture,) = brightness(tone(part * rate / 2, 1.0, rate)[None, None], rate)
    row = picture[:, 20:-20].sum(axis=1).argmax()
    assert abs(row - (1 - part) * spectrogram.HEIGHT) <= 1.5
    dark = np.abs(np.arange(spectrogram.HEIGHT) - row) > 5
    assert picture[dark, 20:-20].max() < 0.2 * picture[row].max()


def test_a_sine_that_begins_half_way_is_dark_before(tmp_path: Path) -> None:
    values = tone(1000)
    values[:4000] = 0
    (picture,) = brightness(values[None, None], 8000)
    loud = picture.max(axis=0) > 0.5 * picture.max()
    assert abs(int(loud.argmax()) - spectrogram.WIDTH // 2) <= 3
    assert loud[spectrogram.WIDTH // 2 + 3 :].all()


def test_all_sounds_are_on_one_scale_of_loudness_and_silence_is_black() -> None:
    loud, quiet, silent = brightness(np.stack([tone(1000), tone(1000) // 100, tone(1000) * 0])[:, None], 8000)
    assert loud.max() > quiet.max() > silent.max() == silent.min()
    for values in (np.zeros((2, 1, 5), np.int16), noise(2, 1, 1)):  # nothing but silence, and a single value
        assert spectrogram.pictures(values, 8000).shape == (2, spectrogram.HEIGHT, spectrogram.WIDTH, 3)


def test_a_long_sound_is_shown_to_its_end() -> None:
    values = np.zeros(20 * 8000, np.int16)
    values[10 * 8000 + 400 : 10 * 8000 + 800] = tone(1000)[:400]  # between two columns of a single window each
    (picture,) = brightness(values[None, None], 8000)
    assert picture.max() > 3 * np.median(picture)


def test_axes_say_their_ends() -> None:
    assert spectrogram.axes(8192, 8000) == ("1.02 s", "4 kHz")
    assert spectrogram.axes(441, 44100) == ("10 ms", "22.1 kHz")
    assert spectrogram.axes(100, 1000) == ("0.1 s", "500 Hz")


def tiles(path: Path, rows: int, columns: int, *, left: int) -> np.ndarray:
    """(rows, columns, HEIGHT, WIDTH) brightness of an overview whose first tile begins at `left`."""
    with Image.open(path) as overview:
        pixels = np.asarray(overview.convert("RGB")).astype(int).sum(axis=-1)
    cut = [
        [pixels[2 + r * TILE[1] :, left + c * TILE[0] :][: TILE[1] - 2, : TILE[0] - 2] for c in range(columns)]
        for r in range(rows)
    ]
    return np.array(cut)


def left_of(path: Path, columns: int) -> int:
    """Where the first tile begins: the tiles with their gaps end at the right edge."""
    with Image.open(path) as overview:
        return overview.width - columns * TILE[0]


def lines(found: np.ndarray) -> list[list[int]]:
    """The row of the brightest line of each tile."""
    return [[int(tile.sum(axis=1).argmax()) for tile in row] for row in found]


def line(hertz: float) -> int:
    return int(brightness(tone(hertz)[None, None], 8000)[0].sum(axis=1).argmax())


def test_the_overview_has_a_row_for_each_class(tmp_path: Path) -> None:
    hertz = [500, 1500, 2500, 600, 1600, 2600]
    spec = replace(MONO, cond={"label": label_spec(3, ("low", "middle", "high"))})
    writers.write(tmp_path, np.stack([tone(h) for h in hertz])[:, None], [0, 1, 2, 0, 1, 2], spec, {})
    path = tmp_path / "overview.png"
    found = lines(tiles(path, 3, 2, left=left_of(path, 2)))
    assert found == [[line(500), line(600)], [line(1500), line(1600)], [line(2500), line(2600)]]
    with Image.open(path) as overview:
        margin = np.asarray(overview.convert("L"))[:, : left_of(path, 2)]
    for row in range(3):  # each class has its name
        assert margin[2 + row * TILE[1] : (row + 1) * TILE[1]].min() < 100


def test_paths_are_written_one_by_one_with_a_row_for_each(tmp_path: Path) -> None:
    hertz = np.concatenate([np.linspace(300, 1800, 16), np.linspace(2000, 3500, 16)])
    values = np.stack([tone(h) for h in hertz])[:, None]
    names = writers.write(tmp_path, values, [0] * 32, MONO, {}, along=(4, 4))
    assert names == ["overview.png", *(f"{i:05d}.wav" for i in range(32))]
    path = tmp_path / "overview.png"
    found = lines(tiles(path, 2, 12, left=left_of(path, 12)))
    chosen = [int(i * 16 / 12) for i in range(12)]
    assert found == [[line(h) for h in hertz[:16][chosen]], [line(h) for h in hertz[16:][chosen]]]
    short = writers.write(tmp_path, values[:4], None, MONO, {}, along=(2, 2))
    assert len(short) == 5


def test_what_was_made_from_others_is_shown_below_them(tmp_path: Path) -> None:
    beside, made = (np.stack([tone(h) for h in hertz])[:, None] for hertz in ((400, 800, 1200), (2000, 2400, 2800)))
    assert len(writers.write(tmp_path, made, None, MONO, {}, beside=beside)) == 4
    path = tmp_path / "overview.png"
    found = lines(tiles(path, 2, 3, left=left_of(path, 8)))
    assert found == [[line(h) for h in (400, 800, 1200)], [line(h) for h in (2000, 2400, 2800)]]
    assert np.array_equal(soundfile.read(tmp_path / "00002.wav", dtype="int16")[0], made[2, 0])


def test_a_grid_in_which_place_means_something_keeps_its_columns(tmp_path: Path) -> None:
    writers.write(tmp_path, np.stack([tone(300 * (i + 1)) for i in range(6)])[:, None], None, MONO, {}, columns=3)
    path = tmp_path / "overview.png"
    assert lines(tiles(path, 2, 3, left=left_of(path, 3))) == [[line(h) for h in (300, 600, 900)],
                                                              [line(h) for h in (1200, 1500, 1800)]]  # fmt: skip


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gan"
    train(config_of("gan", folder, *SMALL, "trainer.max_steps=2", "trainer.preview_every=1", "dtype=fp32"))
    return folder


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    vector = ("model.downsample=null", "model.prior=mixture", "model.latent_dim=4")
    train(config_of("vae", folder, *SMALL, "trainer.max_steps=2", *vector, "dtype=fp32"))
    return folder


def test_a_run_previews_and_draws_sounds_and_replaces_only_its_own_files(run: Path, tmp_path: Path) -> None:
    assert (run / "previews" / "00000002.png").is_file()
    out = genai.sample(run, count=3, labels=["1", "7"], out=tmp_path / "out", console=QUIET)
    record = json.loads((out / "samples.json").read_text())
    assert record["files"] == ["overview.png", *(f"{i:05d}.wav" for i in range(6))]
    assert soundfile.info(out / "00005.wav").samplerate == 8000
    archive = genai.sample(run, count=3, labels=["1", "7"], out=tmp_path / "npz", format="npz", console=QUIET)
    found = np.load(archive / "samples.npz", allow_pickle=False)
    assert np.array_equal(found["samples"][5], soundfile.read(out / "00005.wav", dtype="int16")[0])
    genai.sample(run, count=1, out=out, console=QUIET)
    assert sorted(path.name for path in out.iterdir()) == ["00000.wav", "overview.png", "samples.json"]
    foreign = tmp_path / "foreign"
    for name in ("00000.wav", "overview.png"):
        foreign.mkdir(exist_ok=True)
        (foreign / name).write_bytes(b"mine")
        with pytest.raises(OutputError, match="would be overwritten"):
            genai.sample(run, count=1, out=foreign, console=QUIET)
        assert (foreign / name).read_bytes() == b"mine"
        (foreign / name).unlink()
    with pytest.raises(DataError, match=r"trained on audio \(1, 400\), the data are image"):
        genai.evaluate(run, "data=digits", console=QUIET)


def test_every_task_of_a_first_stage_works_on_sounds_of_any_rate(first_stage: Path, tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "own" / f"{i}.wav", sine(300 * (i + 1), 0.2, 16000), 16000)
    for task, count in (("reconstruct", 3), ("vary", 3), ("traverse", 2), ("interpolate", 2)):
        given = None if task == "interpolate" else tmp_path / "own"
        out = genai.sample(first_stage, "sampling.frames=3", task=task, input=given, count=count,  # type: ignore[arg-type]
                           out=tmp_path / task, console=QUIET)  # fmt: skip
        assert (out / "overview.png").is_file()
        assert soundfile.info(out / "00001.wav").frames == 400


def test_a_codec_of_sounds_keeps_the_units_it_learned(
    first_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.wav", sine(500, 0.05, 8000, 0.01))
    trained = factory.open_trained(first_stage, threads=1)
    codec = Codec(trained.model, trained.spec, "", torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    settings = replace(trained.config, data=config(tmp_path, valid_fraction=0.0))
    data = factory.open_dataset(settings, codec)
    assert data.train.split.units.scale == pytest.approx(trained.spec.scale[0])  # type: ignore[attr-defined]
    other = replace(trained.spec, sample_rate=16000)
    with pytest.raises(ConfigError, match=r"type data\.sample_rate=8000 data\.seconds=0\.05"):
        codec.encoded(other)
