"""Folders of pictures, against Pillow used plainly, and every kind of file that should not be there."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genai.data import listed as listed_module
from genai.data.check import check
from genai.data.images import Frame, decode, fit, frame_of, look_at
from genai.data.source import Dataset, SeenBy, modality_of, open_data
from genai.errors import DataError
from genai.schema import DataConfig, PathText

RANDOM = np.random.RandomState(0)


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(name="path", path=PathText(str(path)), **settings)  # type: ignore[arg-type]


def opened(path: Path, **settings: object) -> Dataset:
    return open_data(config(path, **{"valid_fraction": 0.0, **settings}), predicts="data")


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([np.sin(x / 9 + k) * np.cos(y / 7) * 120 + 128 for k in range(3)], axis=-1).astype(np.uint8)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def save_twice(path: Path, values: np.ndarray) -> Path:
    """One picture is no set."""
    save(path.with_stem(f"{path.stem} again"), values)
    return save(path, values)


def pixels(data: Dataset) -> np.ndarray:
    """All training pictures as whole numbers (N, C, H, W)."""
    return np.rint(data.train.fetch(torch.arange(len(data.train))).x.numpy() * 127.5 + 127.5).astype(int)


def test_sub_folders_are_classes_and_every_pixel_is_kept(tmp_path: Path) -> None:
    written = {}
    for label in ("cat", "dog", "a b, 漢字=1"):
        for i in range(3):
            written[label, i] = noise(8, 12, 3)
            save(tmp_path / label / "deeper" / f"{i}.png", written[label, i])
    data = opened(tmp_path)
    names = data.spec.cond["label"].names
    assert names == ("a b, 漢字=1", "cat", "dog")
    assert data.spec.shape == (3, 8, 12)
    labels = data.train.fetch(torch.arange(9)).cond["label"].tolist()
    expected = [written[names[label], i % 3].transpose(2, 0, 1) for i, label in enumerate(labels)]
    assert labels == sorted(labels)
    assert np.array_equal(pixels(data), np.array(expected))


@pytest.mark.parametrize("name", ["two words", "漢字", "a,b(c)", "lr=0.1", "#1~", "{x}", "100%"])
def test_paths_of_any_spelling_are_read(tmp_path: Path, name: str) -> None:
    save_twice(tmp_path / name / f"{name}.png", noise(8, 8))
    assert len(opened(tmp_path / name).train) == 2
    np.savez(tmp_path / f"{name}.npz", images=noise(4, 8, 8))
    assert len(opened(tmp_path / f"{name}.npz").train) == 4


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for label in range(12):
        save(tmp_path / str(label) / "a.png", np.full((8, 8), label, np.uint8))
    data = opened(tmp_path)
    assert data.spec.cond["label"].names == tuple(map(str, range(12)))
    labels = data.train.fetch(torch.arange(12)).cond["label"].tolist()
    assert sorted(labels) == list(range(12))
    assert pixels(data)[:, 0, 0, 0].tolist() == labels


def test_a_flat_folder_and_a_single_class_have_no_labels(tmp_path: Path) -> None:
    save_twice(tmp_path / "flat" / "a.png", noise(8, 8))
    save_twice(tmp_path / "one" / "faces" / "a.png", noise(8, 8))
    assert opened(tmp_path / "flat").spec.cond == {}
    assert opened(tmp_path / "one").spec.cond == {}


def test_train_and_test_folders_are_the_parts_and_no_classes(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        for label in ("x", "y"):
            for i in range(count):
                save(tmp_path / part / label / f"{i}.png", noise(8, 8))
    data = opened(tmp_path)
    assert data.valid is not None
    assert (len(data.train), len(data.valid)) == (12, 4)
    assert data.spec.cond["label"].names == ("x", "y")
    save(tmp_path / "dinner" / "a.png", noise(8, 8))
    data = opened(tmp_path)
    assert len(data.train) == 12
    assert "held-out data is 'test'; not used: dinner" in data.notes


def test_what_is_called_train_among_other_folders_is_a_class(tmp_path: Path) -> None:
    for label in ("car", "train"):
        save(tmp_path / label / "a.png", noise(8, 8))
    assert opened(tmp_path).spec.cond["label"].names == ("car", "train")


@pytest.mark.parametrize("wrapper", ["train", "my set", "my set/data", "test", "a/train"])
def test_a_folder_that_holds_all_is_looked_into(tmp_path: Path, wrapper: str) -> None:
    for label in ("x", "y"):
        save(tmp_path / wrapper / label / "a.png", noise(8, 8))
    (tmp_path / "README.md").write_text("x")
    assert opened(tmp_path).spec.cond["label"].names == ("x", "y")


def test_parts_are_found_inside_a_folder_that_holds_all(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for label in ("x", "y"):
            for i in range(count):
                save(tmp_path / "set" / part / label / f"{i}.png", noise(8, 8))
    data = opened(tmp_path)
    assert data.valid is not None
    assert (len(data.train), len(data.valid)) == (6, 4)
    assert data.spec.cond["label"].names == ("x", "y")


def test_folders_inside_a_class_are_told(tmp_path: Path) -> None:
    for name in ("animals/cat", "animals/dog", "cars"):
        save(tmp_path / name / "a.png", noise(8, 8))
    data = opened(tmp_path)
    assert data.spec.cond["label"].names == ("animals", "cars")
    assert data.notes == ("folders inside a class are that class: animals/cat, animals/dog",)


def test_samples_among_the_pictures_are_no_data(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "samples/grid.png", "samples/00000.png"):
        save(tmp_path / name, noise(8, 8))
    (tmp_path / "samples" / "samples.json").write_text("{}")
    assert len(opened(tmp_path).train) == 2


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    values = noise(150, 100, 3)
    save_twice(tmp_path / "a.png", values)
    ours = pixels(opened(tmp_path, size=20))[0].transpose(1, 2, 0)
    resized = Image.fromarray(values).resize((20, 30), Image.Resampling.LANCZOS)
    expected = np.asarray(resized.crop((0, 5, 20, 25))).astype(int)
    assert np.abs(ours - expected).max() <= 1
    # Not antialiased, or cropped elsewhere, differs visibly.
    nearest = Image.fromarray(values).resize((20, 30), Image.Resampling.NEAREST).crop((0, 5, 20, 25))
    assert np.abs(ours - np.asarray(nearest)).max() > 8
    assert np.abs(ours - np.asarray(resized.crop((0, 0, 20, 20)))).max() > 8


def test_array_and_folder_are_resized_alike(tmp_path: Path) -> None:
    values = smooth(48, 48)
    save_twice(tmp_path / "folder" / "a.png", values)
    np.save(tmp_path / "a.npy", np.stack([values] * 2))
    assert np.array_equal(pixels(opened(tmp_path / "folder", size=20)), pixels(opened(tmp_path / "a.npy", size=20)))


def test_channels_convert_as_pillow_does(tmp_path: Path) -> None:
    values = noise(8, 8, 3)
    save_twice(tmp_path / "rgb" / "a.png", values)
    np.save(tmp_path / "rgb.npy", np.stack([values] * 2))
    expected = np.asarray(Image.fromarray(values).convert("L"))
    for path in (tmp_path / "rgb", tmp_path / "rgb.npy"):
        assert np.array_equal(pixels(opened(path, channels=1))[0, 0], expected)
    save_twice(tmp_path / "grey" / "a.png", values[..., 0])
    assert opened(tmp_path / "grey").spec.shape == (1, 8, 8)
    in_colour = pixels(opened(tmp_path / "grey", channels=3))[0]
    assert np.array_equal(in_colour, np.stack([values[..., 0]] * 3))


def test_the_pictures_decide_the_size_and_the_notes_say_so(tmp_path: Path) -> None:
    for i, side in enumerate((20, 30, 40)):
        save(tmp_path / "mixed" / f"{i}.png", noise(side, side + 5))
    data = opened(tmp_path / "mixed")
    assert data.spec.shape == (1, 30, 30)
    assert "20 to 40" in data.notes[0]
    save_twice(tmp_path / "large" / "a.png", noise(100, 300))
    assert opened(tmp_path / "large").spec.shape == (1, 64, 64)
    assert opened(tmp_path / "large", size=96).spec.shape == (1, 96, 96)


def test_a_picture_of_any_size_fits_any_frame() -> None:
    for size in (8, 28, 48, 64):
        frame = Frame(1, size, size, fits=True)
        for width in range(4, 70):
            for height in range(4, 70, 3):
                assert fit(Image.new("L", (width, height)), frame).size == (size, size)


def test_odd_kinds_of_pictures_become_eight_bits(tmp_path: Path) -> None:
    def read(path: Path, channels: int) -> np.ndarray:
        frame, _ = frame_of([look_at(path)], config(path, channels=channels))
        return decode(path, frame)

    deep = np.array([[0, 257, 65535], [32768, 256, 65279]], dtype=np.uint16)
    save(tmp_path / "deep.png", deep)
    assert np.array_equal(read(tmp_path / "deep.png", 1)[0], np.rint(deep / 257))
    for name, values in (("bright.pgm", deep), ("dark.pgm", deep // 1000)):  # a dark one is not eight bits
        header = f"P5 {values.shape[1]} {values.shape[0]} 65535\n".encode()
        (tmp_path / name).write_bytes(header + values.astype(">u2").tobytes())
        assert np.array_equal(read(tmp_path / name, 1)[0], np.rint(values / 257))
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "whole.tiff")
    with pytest.raises(DataError, match="32-bit"):
        read(tmp_path / "whole.tiff", 1)
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[0, 0] = (10, 20, 30, 255)
    save(tmp_path / "alpha.png", alpha)
    assert read(tmp_path / "alpha.png", 3)[:, 0, 0].tolist() == [10, 20, 30]
    assert read(tmp_path / "alpha.png", 3)[:, 1, 1].tolist() == [255, 255, 255]  # transparent is white
    palette = Image.fromarray(noise(8, 8, 3)).quantize(4)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read(tmp_path / "palette.png", 3).transpose(1, 2, 0), np.asarray(palette.convert("RGB")))
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red = read(tmp_path / "cmyk.jpg", 3)[:, 0, 0]
    assert red[0] > 200
    assert red[1:].max() < 60
    bits = Image.fromarray(np.eye(8, dtype=bool))
    bits.save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png", 1)[0], np.eye(8) * 255)


def test_a_photo_stored_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    values = smooth(8, 16)
    turned = Image.fromarray(values)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for name in ("a.png", "b.png"):
        turned.save(tmp_path / name, exif=exif)
    assert np.array_equal(pixels(opened(tmp_path))[0].transpose(1, 2, 0), np.rot90(values, -1))


def test_a_large_photo_is_decoded_at_a_fraction_and_looks_the_same(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(smooth(1600, 1200)).save(tmp_path / name, quality=95)
    ours = pixels(opened(tmp_path, size=32))[0].transpose(1, 2, 0)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS, box=(0, 200, 1200, 1400))).astype(int)
    assert np.abs(ours - expected).max() <= 4


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_metadata_file_gives_the_labels(tmp_path: Path, kind: str) -> None:
    labels = {"b.png": "dog, large", "a.png": "cat", "deep/c.png": "cat"}
    for name in labels:
        save(tmp_path / name, noise(8, 8))
    if kind == "csv":
        text = "\ufefffile_name,text,label\r\n" + "".join(f'{name},x,"{label}"\r\n' for name, label in labels.items())
    else:
        text = "".join(json.dumps({"file": name, "label": label}) + "\n\n" for name, label in labels.items())
    metadata = tmp_path / f"metadata.{kind}"
    metadata.write_text(text, encoding="utf-8", newline="")
    data = opened(tmp_path)
    assert data.spec.cond["label"].names == ("cat", "dog, large")
    assert data.train.fetch(torch.arange(3)).cond["label"].tolist() == [0, 1, 0]
    assert data.notes == ()
    for damaged, words in (
        (text.replace("b.png", "z.png"), "z.png"),
        (text.replace("b.png", "a.png"), "again"),
        (text.replace("dog, large", ""), "no label"),
        (text[: text.index("deep")].rpartition("\n")[0] + "\n", "no row for"),
        (text.replace("file", "fyle"), "names no file"),
    ):
        metadata.write_text(damaged, encoding="utf-8", newline="")
        error = refusal(tmp_path)
        assert error.path == metadata
        assert words in error.what
    metadata.write_bytes(b"\xff\xfe\x00a")
    assert "UTF-8" in str(refusal(tmp_path))


def test_metadata_as_spreadsheets_and_windows_write_them(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.png"):
        save(tmp_path / name, noise(8, 8))
    (tmp_path / "metadata.csv").write_text("file_name, label \na.png,cat\ndeep\\b.png,dog\n")
    assert opened(tmp_path).spec.cond["label"].names == ("cat", "dog")
    (tmp_path / "metadata.csv").write_text("file_name;label\na.png;cat\n")
    assert "not divided by commas" in refusal(tmp_path).what
    (tmp_path / "metadata.csv").write_text("file_name,kind\na.png,cat\ndeep/b.png,dog\n")
    assert opened(tmp_path).notes[0].startswith("no column 'label' or 'text' in metadata.csv")


# -- what should not be there ------------------------------------------------------------------------------------------


def refusal(path: Path, **settings: object) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path, **settings)
    assert caught.value.exit_code == 3
    assert caught.value.path is not None
    assert len(caught.value.lines()) == 1
    return caught.value


def test_paths_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.xyz").write_text("x")
    (tmp_path / "table.xyz").write_text("x")
    (tmp_path / "packed.zip").write_text("x")
    for name, words in (
        ("missing", "no such file"),
        ("empty", "empty"),
        ("notes", "todo.xyz"),
        ("table.xyz", "not read"),
        ("packed.zip", "packed folder"),
        ("x" * 5000, "cannot be read"),
        ("nul\0", "cannot be read|no such file"),
    ):
        with pytest.raises(DataError, match=words):
            modality_of("path", str(tmp_path / name))
        with pytest.raises(DataError, match=words):
            opened(tmp_path / name)


def test_one_picture_is_looked_at_and_not_trained_on(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", noise(8, 8, 3))
    learned = opened(tmp_path / "set")
    one = tmp_path / "set" / "a" / "0.png"
    assert "one picture only" in refusal(one).what
    assert modality_of("path", str(one)) == "image"
    seen_by = SeenBy(learned.spec, ("a", "b"), True)
    data = open_data(DataConfig(name="path", path=PathText(str(one))), predicts="data", seen_by=seen_by)
    assert data.valid is not None
    assert len(data.valid) == 1
    assert data.valid.fetch(torch.arange(1)).x.shape == (1, 3, 8, 8)


def bad_files(folder: Path) -> dict[str, str]:
    """Writes one good picture and one of each bad kind; returns a word of the reason by name."""
    good = save(folder / "good.png", noise(16, 16, 3))
    content = good.read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "nothing.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "link.png").symlink_to(folder / "gone.png")
    (folder / "code.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(folder / "pipe.png")
    return {
        "cut.png": "truncated|broken|cannot be read|not a readable",
        "nothing.png": "empty",
        "text.png": "no picture format",
        "link.png": "link leads nowhere",
        "code.png": "no picture format",
        "pipe.png": "not a file",
    }


def test_each_bad_picture_is_named_with_its_reason(tmp_path: Path) -> None:
    kinds = bad_files(tmp_path / "all")
    for name, words in kinds.items():
        only = tmp_path / name
        only.mkdir()
        save(only / "good.png", noise(16, 16, 3))
        os.rename(tmp_path / "all" / name, only / "bad.png")
        error = refusal(only)
        assert error.path == only / "bad.png"
        with pytest.raises(DataError, match=words):
            raise error


def test_bad_pictures_are_counted_and_skipped_when_asked(tmp_path: Path) -> None:
    kinds = bad_files(tmp_path)
    for i in range(20):
        save(tmp_path / f"more{i}.png", noise(16, 16, 3))
    assert f"{len(kinds)} of {len(kinds) + 21} files are bad" in refusal(tmp_path).what
    data = opened(tmp_path, on_bad="skip")
    assert len(data.train) == 21
    assert any(f"{len(kinds)} bad pictures are skipped" in note for note in data.notes)


def test_skipping_gives_the_same_set_when_it_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in "ab":
        for i in range(10):
            save(tmp_path / label / f"{i}.png", noise(16, 16))
    (tmp_path / "a" / "3.png").write_bytes(b"")
    resident = opened(tmp_path, on_bad="skip")
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    streamed = opened(tmp_path, on_bad="skip")
    assert streamed.train.streams
    assert np.array_equal(pixels(resident), pixels(streamed))
    index = torch.arange(19)
    assert torch.equal(resident.train.fetch(index).cond["label"], streamed.train.fetch(index).cond["label"])


def test_too_many_bad_pictures_are_refused_even_when_skipping(tmp_path: Path) -> None:
    save(tmp_path / "good.png", noise(8, 8))
    for i in range(9):
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    for on_bad in ("skip", "error"):
        error = refusal(tmp_path, on_bad=on_bad)
        assert error.what.startswith("9 of 10 files are bad, too many to be skipped")
        assert "on_bad" not in error.fix
    assert not check(config(tmp_path)).can_skip
    (tmp_path / "bad8.png").unlink()
    assert check(config(tmp_path)).can_skip
    assert "data.on_bad=skip" in refusal(tmp_path).fix
    (tmp_path / "good.png").unlink()
    refusal(tmp_path, on_bad="skip")
    assert not check(config(tmp_path)).can_skip


@pytest.mark.parametrize("name", [b"cat\xff", b"cat${home}"])
def test_a_class_that_no_run_could_keep_is_refused_by_training_and_by_check(tmp_path: Path, name: bytes) -> None:
    for folder in (name, b"dog"):
        save(tmp_path / os.fsdecode(folder) / "a.png", noise(8, 8))
    for read in (refusal, lambda path: check(config(path))):
        try:
            error = read(tmp_path)
        except DataError as raised:
            error = raised
        assert isinstance(error, DataError)
        assert error.what.startswith("the class 'cat")


def test_a_relative_path_that_is_not_here_is_told_with_where_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"starts from {tmp_path}" in refusal(Path("sub/deeper/pictures")).fix


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (9000, 30000, 13000):
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        rows = zlib.compress(bytes((side // 8 + 2) * 64))
        folder = tmp_path / str(side)
        folder.mkdir()
        (folder / "bomb.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        )
        error = refusal(folder)
        assert error.path == folder / "bomb.png"
        assert "pixels" in error.what
    # Pillow's own warning would stand beside our one line; pytest resets the filter that silences it.
    code = f"from genai.data.images import look_at; from pathlib import Path; look_at(Path({str(error.path)!r}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataError: a picture of 13000x13000" in said.stderr
    assert "Warning" not in said.stderr


def test_pictures_beside_class_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "stray.png"):
        save(tmp_path / name, noise(8, 8))
    assert "stray.png" in refusal(tmp_path).what


def test_other_files_are_left_out_and_told_and_hidden_ones_are_not_seen(tmp_path: Path) -> None:
    save_twice(tmp_path / "a.png", noise(8, 8))
    for name in ("readme.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("x")
    save(tmp_path / ".thumbnails" / "a.png", noise(4, 4))
    data = opened(tmp_path)
    assert len(data.train) == 2
    assert data.notes == ("left out as no pictures: readme.txt",)


def test_a_link_that_leads_to_itself_is_refused_by_name(tmp_path: Path) -> None:
    save_twice(tmp_path / "cat" / "a.png", noise(8, 8, 3))
    (tmp_path / "x").symlink_to(tmp_path / "x")
    error = refusal(tmp_path)
    assert error.exit_code == 3
    assert str(error.path) == str(tmp_path / "x")


def test_a_run_among_the_pictures_is_no_data(tmp_path: Path) -> None:
    save_twice(tmp_path / "cat" / "a.png", noise(8, 8, 3))
    before = opened(tmp_path)
    run = tmp_path / "runs" / "gan" / "one"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    save_twice(run / "previews" / "a.png", noise(8, 8, 3))
    after = opened(tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.spec == before.spec


def test_circles_of_links_end(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", noise(8, 8))
    save(tmp_path / "b" / "1.png", noise(8, 8))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(opened(tmp_path).train) == 2


def test_fingerprint_follows_content_also_when_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(8, 8))
    resident = opened(tmp_path).fingerprint
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    streamed = opened(tmp_path).fingerprint
    assert streamed == opened(tmp_path).fingerprint
    save(tmp_path / "3.png", np.zeros((8, 8), np.uint8))
    assert opened(tmp_path).fingerprint != streamed
    monkeypatch.undo()
    assert opened(tmp_path).fingerprint != resident


def test_check_lists_ten_bad_files_counts_all_and_never_stops_at_the_first(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(10):
            save(tmp_path / label / f"{i}.png", noise(8, 8))
    good = check(config(tmp_path))
    assert good.good
    assert (good.train, good.held_out, good.shape) == (18, 2, (1, 8, 8))
    assert good.classes == {"a": 10, "b": 10}
    for i in range(12):
        (tmp_path / "a" / f"bad{i:02}.png").write_bytes(b"")
    report = check(config(tmp_path))
    assert not report.good
    assert report.num_bad == 12
    assert [Path(path).name for path, _ in report.bad] == [f"bad{i:02}.png" for i in range(10)]
    assert report.classes == {"a": 10, "b": 10}
    assert report.plain()["num_bad"] == 12
    for picture in tmp_path.rglob("?.png"):
        picture.write_bytes(b"")
    assert check(config(tmp_path)).num_bad == 32


def test_fit_refuses_another_size_where_none_was_asked_for(tmp_path: Path) -> None:
    frame, _ = frame_of([look_at(save(tmp_path / "a.png", noise(8, 8)))], config(tmp_path))
    with pytest.raises(DataError, match="12x8"):
        fit(Image.new("L", (12, 8)), frame)
