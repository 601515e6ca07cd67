"""Clips of arrays, against numpy and against the same frames read as pictures, and what should not be among them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genai.config import compose_train
from genai.data import arrays as arrays_module
from genai.data.check import check, describe
from genai.data.source import SeenBy, Source, modality_of, open_data, open_source
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig
from pictures import config, labels, opened, pixels

RANDOM = np.random.RandomState(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(0, 256, shape, dtype=np.uint8)


def channels_first(clips: np.ndarray) -> np.ndarray:
    """(N, T, H, W, C) -> (N, C, T, H, W)."""
    return clips.transpose(0, 4, 1, 2, 3)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_clips_with_labels_names_captions_and_a_test_part(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    clips, y = noise(6, 4, 8, 10, 3), np.array([2, 0, 1, 1, 2, 0])
    captions, path = np.array([f"clip {i}" for i in range(6)]), tmp_path / "a.npz"
    write(
        path, clips=clips, labels=y, names=["x", "y", "z"], captions=captions, test_clips=clips[:2], test_labels=y[:2]
    )
    data = opened(path)
    assert data.valid is not None
    assert (data.spec.kind, data.spec.modality, data.spec.shape) == ("real", "video", (3, 4, 8, 10))
    assert (data.spec.scale, data.spec.offset) == ((127.5,), (127.5,))
    assert data.spec.cond["label"].names == ("x", "y", "z")
    assert np.array_equal(pixels(data.train), channels_first(clips))
    assert np.array_equal(pixels(data.valid), channels_first(clips[:2]))
    assert labels(data.train) == y.tolist()
    assert (data.num_captions, data.caption_examples) == (6, ("clip 0", "clip 1", "clip 2"))
    assert data.train.stored.dtype == torch.uint8  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", ["npy", "x", "fortran", "int64", "bool", "grey"])
def test_layouts_and_types_of_clips_mean_the_same(tmp_path: Path, layout: str) -> None:
    clips = noise(5, 3, 8, 9, 1 if layout == "grey" else 3)
    if layout == "bool":
        clips = (clips > 127) * np.uint8(255)
    made = {"fortran": np.asfortranarray(clips), "int64": clips.astype(np.int64), "bool": clips > 0}.get(layout, clips)
    path = tmp_path / ("a.npy" if layout == "npy" else "a.npz")
    if layout == "npy":
        np.save(path, made)
    else:
        save(path, **{"x" if layout == "x" else "clips": made})
    assert modality_of("path", str(path)) == "video"
    data = opened(path)
    assert data.spec.shape == (clips.shape[4], 3, 8, 9)
    assert np.array_equal(pixels(data.train), channels_first(clips))


@pytest.mark.parametrize(
    "settings",
    [{"size": 8}, {"size": (5, 12), "fit": "pad"}, {"size": (5, 12), "fit": "stretch"}, {"channels": 1}, {"size": 20}],
)
def test_frames_are_brought_to_a_size_and_to_colours_as_pictures_are(tmp_path: Path, settings: dict[str, Any]) -> None:
    clips = noise(5, 3, 10, 16, 3)
    save(tmp_path / "clips.npz", clips=clips)
    save(tmp_path / "pictures.npz", images=clips.reshape(-1, 10, 16, 3))
    pictures = pixels(opened(tmp_path / "pictures.npz", **settings).train)
    found = pixels(opened(tmp_path / "clips.npz", **settings).train)
    assert np.array_equal(found, pictures.reshape(5, 3, *pictures.shape[1:]).swapaxes(1, 2))


def test_clips_larger_than_64_pixels_become_smaller_and_a_note_says_so(tmp_path: Path) -> None:
    data = opened(save(tmp_path / "a.npz", clips=noise(2, 2, 80, 100, 3)))
    assert data.spec.shape == (3, 2, 64, 64)
    assert data.notes == ("clips (100x80) become 64x64; data.size=N for another size",)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
@pytest.mark.parametrize("settings", [{}, {"size": 5, "frames": 2, "channels": 1}])
def test_clips_too_large_for_memory_stream_the_same(tmp_path: Path, monkeypatch, write, settings) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / ("a.npy" if write is np.save else "a.npz")
    write(path, noise(7, 3, 6, 6, 3))
    resident = opened(path, **settings)
    monkeypatch.setattr(arrays_module, "RESIDENT_BYTES", 0)
    streamed = opened(path, **settings)
    assert streamed.train.streams
    assert np.array_equal(pixels(resident.train), pixels(streamed.train))
    rows = streamed.train.rows  # type: ignore[attr-defined]
    copied = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(copied.read(np.array([4, 1])), rows.read(np.array([4, 1])))
    assert copied.digest() == rows.digest()
    if write is not np.savez_compressed:
        np.save(tmp_path / "large.npy", np.zeros((20, 8, 64, 64, 1), np.uint8))
        assert len(pickle.dumps(opened(tmp_path / "large.npy").train.rows)) < 2000  # type: ignore[attr-defined]


def test_the_digest_of_streaming_clips_reads_no_more_than_its_bytes(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    clips = noise(50, 2, 4, 4, 3)
    monkeypatch.setattr(arrays_module, "RESIDENT_BYTES", 0)
    save(tmp_path / "a.npz", clips=clips)
    clips[7] += 1
    save(tmp_path / "b.npz", clips=clips)

    def digests() -> list[bytes]:
        return [opened(tmp_path / name).train.rows.digest() for name in ("a.npz", "b.npz")]  # type: ignore[attr-defined]

    one, other = digests()
    assert one != other
    monkeypatch.setattr(arrays_module, "_DIGEST_BYTES", 2 * clips[0].nbytes)  # the first and the last
    one, other = digests()
    assert one == other


# -- the length of a clip ----------------------------------------------------------------------------------------------


def test_data_frames_takes_the_first_of_each_clip(tmp_path: Path) -> None:
    clips = noise(4, 6, 8, 8, 3)
    path = save(tmp_path / "a.npz", clips=clips, test_clips=noise(2, 9, 8, 8, 3))
    data = opened(path, frames=2)
    assert data.spec.shape == (3, 2, 8, 8)
    assert np.array_equal(pixels(data.train), channels_first(clips[:, :2]))
    for settings, words in (
        ({}, r"test clips of 9 frames, expected 6 .* - type data\.frames=6"),
        ({"frames": 8}, r"data\.frames is 8, the clips have 6 .* - type data\.frames=6 or less"),
    ):
        with pytest.raises((DataError, ConfigError), match=words):
            opened(path, **settings)
    with pytest.raises(DataError, match=r"test clips of 2 frames, expected 4 .* - type data\.frames=2"):
        opened(save(path, clips=clips[:, :4], test_clips=clips[:, :2]))


# -- what should not be there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"clips": np.zeros((3, 4, 8, 8), np.uint8)}, r"'clips' of type u1 and shape \(3, 4, 8, 8\) are no clips"),
        ({"clips": np.zeros((3, 4, 8, 8, 3), np.float32)}, r"'clips' of type f4 .* save clips as uint8"),
        ({"clips": np.zeros((3, 4, 8, 8, 2), np.uint8)}, r"\(3, 4, 8, 8, 2\) .* save them as uint8"),
        ({"clips": np.zeros((3, 0, 8, 8, 3), np.uint8)}, r"clips of type uint8 and shape \(3, 0, 8, 8, 3\)"),
        ({"clips": np.zeros((1, 4, 8, 8, 3), np.uint8)}, "one clip only"),
        ({"clips": np.arange(5 * 64).reshape(5, 1, 8, 8, 1)}, "clip 4 has values outside 0..255"),
        ({"clips": np.zeros((3, 2, 8, 8, 3), np.uint8), "labels": np.arange(4)}, r"\(4,\) for 3 samples"),
        ({"clips": np.zeros((3, 2, 8, 8, 3), np.uint8), "test_clips": np.zeros((3, 8, 8), np.uint8)}, r"\(3, 8, 8\)"),
        (
            {"clips": np.zeros((3, 2, 8, 8, 3), np.uint8), "test_clips": np.zeros((3, 2, 8, 9, 3), np.uint8)},
            r"test clips of 9x8, expected 8x8 .* - type data\.size=8",
        ),
        ({"x": np.zeros((3, 7), np.float32)}, "neither pictures nor clips nor points"),
    ],
)
def test_arrays_that_hold_no_clips_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words) as caught:
        opened(path)
    assert str(caught.value.path) == str(path)


def test_settings_of_other_data_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", clips=noise(3, 2, 8, 8, 3))
    save(tmp_path / "sounds.npz", audio=np.zeros((3, 50), np.int16), sample_rate=8000)
    save(tmp_path / "points.npz", x=np.zeros((4, 2), np.float32))
    for settings, words in (
        ({"seconds": 1.0}, r"the data are clips, of which data\.seconds says nothing"),
        ({"sample_rate": 8000}, r"the data are clips, of which data\.sample_rate says nothing"),
        ({"channels": 2}, r"data\.channels is 2, clips have 1 or 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            opened(path, **settings)
    for name, nouns in (("sounds", "sounds"), ("points", "points")):
        with pytest.raises(ConfigError, match=rf"the data are {nouns}, of which data\.frames says nothing"):
            opened(tmp_path / f"{name}.npz", frames=2)
    with pytest.raises(ConfigError, match=r"the data are pictures, of which data\.frames says nothing"):
        open_data(DataConfig(name="digits", frames=2), predicts="data")
    with pytest.raises(DataError, match="data=digits has pictures, here are clips"):
        open_source(DataConfig(name="digits", path=str(path)))  # type: ignore[arg-type]


def test_a_folder_of_gifs_is_a_folder_of_pictures(tmp_path: Path) -> None:
    values = noise(3, 4, 8, 8)
    for i, clip in enumerate(values):
        frames = [Image.fromarray(frame) for frame in clip]
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
    assert modality_of("path", str(tmp_path)) == "image"
    assert np.array_equal(pixels(opened(tmp_path, channels=1).train)[:, 0], values[:, 0])


def test_a_configuration_with_clips_is_composed_from_the_header_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", clips=noise(3, 2, 8, 8, 3))
    code = (
        f"import sys; from genai.data.source import modality_of; print(modality_of('path', {str(path)!r})); "
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "video"


def test_a_model_without_a_net_for_clips_says_so_in_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", clips=noise(3, 2, 8, 8, 3))
    with pytest.raises(ConfigError, match="'gan' names no net for video data, only for image") as told:
        compose_train("gan", [f"data.path={path}"])
    (line,) = told.value.lines()
    assert "\n" not in line
    with pytest.raises(ConfigError, match=r"'gan' names no net for audio data.* - train .*vae.*, or add net=NAME"):
        compose_train("gan", ["data=spoken_digits"])  # of which there is one that another model names
    composed = compose_train("gan", [f"data.path={path}", "net=mlp", "data.frames=2"])
    assert (composed.net.name, composed.data.frames) == ("mlp", 2)


# -- what a set is -----------------------------------------------------------------------------------------------------


def test_show_and_check_tell_frames_size_and_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", clips=noise(20, 4, 8, 10, 3), labels=np.arange(20) % 2, names=["a", "b"])
    for told in (check(config(path)).plain(), describe("path", config(path))):
        assert (told["modality"], told["shape"]) == ("video", (3, 4, 8, 10))
        assert (told["frames"], told["size"]) == (4, (8, 10))
        assert (told["train"], told["held_out"], told["classes"]) == (18, 2, {"a": 10, "b": 10})
        assert not {"seconds", "sample_rate"} & told.keys()
    assert check(config(path, frames=3, size=6)).plain()["frames"] == 3
    assert check(config(path)).good


def test_clips_are_seen_in_the_units_and_by_the_classes_of_a_model(tmp_path: Path) -> None:
    y = np.array(["c", "b", "c"])
    path = save(tmp_path / "a.npz", clips=noise(3, 2, 8, 8, 1), labels=y)
    spec = opened(path).spec
    seen = open_data(config(path), predicts="data", seen_by=SeenBy(spec, ("a", "b", "c"), hold_out_all=True))
    assert seen.valid is not None
    assert labels(seen.valid) == [2, 1, 2]
    target = open_data(config(path, valid_fraction=0.0), predicts="target")
    assert target.spec.cond["input"].shape == (1, 2, 8, 8)
    assert target.train.fetch(torch.arange(3)).cond["input"].shape == (3, 1, 2, 8, 8)


def test_real_clips_are_read_as_numpy_reads_them() -> None:
    path = Path(os.environ.get("GENAI_TEST_DATA", "")) / "video_clips_16x32.npz"
    if not os.environ.get("GENAI_TEST_DATA") or not path.is_file():
        pytest.skip("GENAI_TEST_DATA does not name the test data")
    with np.load(path, allow_pickle=False) as stored:
        clips, y, names = stored["clips"], stored["labels"], stored["names"]
    source = open_source(config(path))
    assert isinstance(source, Source)
    assert source.train.labels is not None
    assert np.array_equal(np.asarray(source.train.x), channels_first(clips))
    assert np.array_equal(source.train.labels, y)
    assert source.names == tuple(names)
    assert describe("path", config(path))["classes"] == dict.fromkeys(names, 120)
