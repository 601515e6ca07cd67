"""Arrays of .npz, .npy and idx files, against numpy and hand-packed bytes; nothing in them is ever executed."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from genai.contract import Spec
from genai.data import arrays as arrays_module
from genai.data.check import check, describe
from genai.data.source import Dataset, SeenBy, modality_of, open_data
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig, PathText

RANDOM = np.random.RandomState(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(0, 256, shape, dtype=np.uint8)


def opened(path: Path, name: str = "path", **settings: object) -> Dataset:
    config = DataConfig(name=name, path=PathText(str(path)), **{"valid_fraction": 0.0, **settings})  # type: ignore[arg-type]
    return open_data(config, predicts="data")


def pixels(data: Dataset, held_out: bool = False) -> np.ndarray:
    split = data.valid if held_out else data.train
    assert split is not None
    return np.rint(split.fetch(torch.arange(len(split))).x.numpy() * 127.5 + 127.5).astype(int)


def labels_of(data: Dataset) -> list[int]:
    return data.train.fetch(torch.arange(len(data.train))).cond["label"].tolist()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_of_pictures_labels_names_and_a_test_part(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    x, y, test = noise(6, 8, 10, 3), np.array([2, 0, 1, 1, 2, 0]), noise(3, 8, 10, 3)
    path = tmp_path / "a.npz"
    write(path, images=x, labels=y, names=["x", "y", "z"], test_images=test, test_labels=y[:3], fonts=["?"] * 6)
    data = opened(path)
    assert np.array_equal(pixels(data), x.transpose(0, 3, 1, 2))
    assert np.array_equal(pixels(data, held_out=True), test.transpose(0, 3, 1, 2))
    assert labels_of(data) == y.tolist()
    assert data.spec.cond["label"].names == ("x", "y", "z")
    assert data.notes == ("arrays that are not used: fonts",)


@pytest.mark.parametrize("layout", ["NHW", "NHW1", "NCHW", "fortran", "int64", "bool"])
def test_layouts_and_types_of_pictures_mean_the_same(tmp_path: Path, layout: str) -> None:
    x = noise(5, 8, 8)
    expected = x
    if layout == "bool":
        x = x > 127
        expected = x * 255
    made = {"NHW1": x[..., None], "NCHW": x[:, None], "fortran": np.asfortranarray(x), "int64": x.astype(np.int64)}
    np.save(tmp_path / "a.npy", made.get(layout, x))
    data = opened(tmp_path / "a.npy")
    assert data.spec.shape == (1, 8, 8)
    assert np.array_equal(pixels(data)[:, 0], expected)


def test_keras_names_of_arrays_are_known(tmp_path: Path) -> None:
    x, y = noise(6, 8, 8), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=x[:4], y_train=y[:4, None], x_test=x[4:], y_test=y[4:])
    data = opened(tmp_path / "a.npz")
    assert labels_of(data) == y[:4].tolist()
    assert np.array_equal(pixels(data, held_out=True)[:, 0], x[4:])


def test_points_get_unit_deviation_and_come_back(tmp_path: Path) -> None:
    points = (RANDOM.standard_normal((500, 2)) * [3, 0.1] + [7, -2]).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=points, labels=np.arange(500) % 2)
    assert modality_of("path", str(tmp_path / "a.npz")) == "points"
    data = opened(tmp_path / "a.npz")
    x = data.train.fetch(torch.arange(500)).x
    assert torch.allclose(x.mean(dim=0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(x.std(dim=0, correction=0), torch.ones(2), atol=1e-4)
    assert np.allclose(x.numpy() * data.spec.scale + data.spec.offset, points, atol=1e-4)
    with pytest.raises(ConfigError, match="points"):
        opened(tmp_path / "a.npz", size=32)
    points[3, 0] = np.nan
    np.save(tmp_path / "b.npy", points)
    with pytest.raises(DataError, match="point 3 is not finite"):
        opened(tmp_path / "b.npy")


def test_classes_without_samples_are_told(tmp_path: Path) -> None:
    x = np.zeros((30, 8, 8), np.uint8)
    np.savez(tmp_path / "gaps.npz", x=x, y=np.arange(30) % 3 * 10)
    np.savez(tmp_path / "whole.npz", x=x, y=np.arange(30) % 3)
    assert opened(tmp_path / "gaps.npz").notes == ("18 of the 21 classes have no samples",)
    assert opened(tmp_path / "whole.npz").notes == ()


def test_text_labels_become_classes_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(4, 8, 8), labels=np.array(["dog", "cat", "dog", "ant"]))
    data = opened(tmp_path / "a.npz")
    assert data.spec.cond["label"].names == ("ant", "cat", "dog")
    assert labels_of(data) == [2, 1, 2, 0]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
@pytest.mark.parametrize("size", [None, 5])
def test_an_array_too_large_for_memory_streams_the_same_rows(tmp_path: Path, monkeypatch, write, size) -> None:  # type: ignore[no-untyped-def]
    x = noise(7, 6, 6, 3)
    path = tmp_path / ("a.npy" if write is np.save else "a.npz")
    write(path, x)
    resident = opened(path, size=size)
    monkeypatch.setattr(arrays_module, "RESIDENT_BYTES", 0)
    streamed = opened(path, size=size)
    assert streamed.train.streams
    assert np.array_equal(pixels(resident), pixels(streamed))
    rows = pickle.loads(pickle.dumps(streamed.train.rows))  # type: ignore[attr-defined]
    assert np.array_equal(rows.read(np.array([4, 1])), streamed.train.rows.read(np.array([4, 1])))  # type: ignore[attr-defined]
    if write is not np.savez_compressed:
        large = tmp_path / "large.npy"
        np.save(large, np.zeros((2000, 64, 64), np.uint8))
        assert len(pickle.dumps(opened(large).train.rows)) < 2000  # type: ignore[attr-defined]  # by name, not by value


# -- idx ---------------------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_idx_folder_plain_and_gzipped(tmp_path: Path) -> None:
    x, y = noise(6, 8, 9), np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(x[:4]))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x[:4])))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y[:4])))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(x[4:]))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(y[4:]))
    data = opened(tmp_path)
    assert np.array_equal(pixels(data)[:, 0], x[:4])
    assert np.array_equal(pixels(data, held_out=True)[:, 0], x[4:])
    assert labels_of(data) == y[:4].tolist()
    alone = opened(tmp_path / "train-images-idx3-ubyte.gz")
    assert np.array_equal(pixels(alone)[:, 0], x[:4])
    assert labels_of(alone) == y[:4].tolist()


def test_a_set_of_ours_in_another_form_keeps_its_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(3, 8, 8), labels=np.array([9, 0, 5]))
    data = opened(tmp_path / "a.npz", "digits")
    assert data.spec.cond["label"].classes == 10
    assert labels_of(data) == [9, 0, 5]
    np.savez(tmp_path / "b.npz", images=noise(3, 8, 8), labels=np.array(["Bag", "Dress", "Bag"]))
    assert labels_of(opened(tmp_path / "b.npz", "fashion_mnist")) == [8, 3, 8]
    np.savez(tmp_path / "c.npz", images=noise(3, 8, 8), labels=np.array([0, 1, 10]))
    with pytest.raises(DataError, match="'10' is none of data=digits"):
        opened(tmp_path / "c.npz", "digits")


@pytest.mark.parametrize("damage", ["cut", "longer", "kind", "dimensions", "not_gzip", "bomb", "empty"])
def test_damaged_idx_files_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    content = idx(noise(20, 8, 8))
    packed = gzip.compress(content)
    made = {
        "cut": packed[:-200],
        "longer": gzip.compress(content + b"\0"),
        "kind": gzip.compress(b"\0\0\x0d" + content[3:]),
        "dimensions": gzip.compress(idx(noise(20))),
        "not_gzip": b"hello",
        "bomb": gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**15, 2**15)),
        "empty": b"",
    }
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(made[damage])
    with pytest.raises(DataError) as caught:
        opened(path)
    assert caught.value.path == path
    path.write_bytes(packed)
    assert len(opened(path).train) == 20


# -- what should not be there ------------------------------------------------------------------------------------------


class Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("where", ["images", "labels", "names", "npy", "pickle_file", "structured"])
def test_objects_are_refused_and_never_unpickled(tmp_path: Path, where: str) -> None:
    canary = tmp_path / "canary"
    objects = np.array([Canary(canary)] * 3, dtype=object)
    x, path = noise(3, 8, 8), tmp_path / ("a.npz" if where in ("images", "labels", "names") else "a.npy")
    if where == "images":
        np.savez(path, images=objects)
    elif where == "labels":
        np.savez(path, images=x, labels=objects)
    elif where == "names":
        np.savez(path, images=x, labels=np.arange(3), names=objects)
    elif where == "npy":
        np.save(path, objects)
    elif where == "pickle_file":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        np.save(path, np.zeros(3, dtype=[("a", "O")]))
    for attempt in (lambda: opened(path), lambda: check(DataConfig(name="path", path=PathText(str(path))))):
        with pytest.raises(DataError, match=r"never unpickled|no numpy array") as caught:
            attempt()
        assert caught.value.exit_code == 3
    assert not canary.exists()
    # The canary works: unpickled, it leaves the file.
    pickle.loads(pickle.dumps(Canary(canary))).close()
    assert canary.exists()


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (np.arange(4), None, r"\(4,\) for 3 samples"),
        (np.zeros((3, 2), int), None, "for 3 samples"),
        (np.array([0, 1, -1]), None, "-1 at 2 of labels is out of range"),
        (np.array([0, 1, 2]), ["a", "b"], "2 at 2 of labels is out of range, expected 0 to 1"),
        (np.array([0, 1, 10**9]), None, "1000000000 at 2"),
        (np.array([0.5, 1, 2]), None, "float64"),
        (np.array(["a", "c", "a"]), ["a", "b"], "'c' at 1"),
        (np.array([0, 1, 2]), [[1]], "names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, names: object, words: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=noise(3, 8, 8), labels=labels, **({} if names is None else {"names": np.array(names)}))
    with pytest.raises(DataError, match=words):
        opened(path)


def test_labels_of_the_test_part_are_checked_too(tmp_path: Path) -> None:
    path, x = tmp_path / "a.npz", noise(3, 8, 8)
    np.savez(path, images=x, labels=np.arange(3), names=["a", "b", "c"], test_images=x, test_labels=np.array([0, 1, 3]))
    with pytest.raises(DataError, match="3 at 2 of test labels"):
        opened(path)
    np.savez(path, images=x, labels=np.arange(3), test_images=x)
    with pytest.raises(DataError, match="missing"):
        opened(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((3, 8, 8), np.float32)},
        {"images": np.zeros((3, 8, 8, 4), np.uint8)},
        {"images": np.zeros((3, 8), np.uint8)},
        {"images": np.full((3, 8, 8), 256, np.int32)},
        {"images": np.zeros((0, 8, 8), np.uint8)},
        {"images": np.zeros((3, 0, 8), np.uint8)},
        {"images": np.array("text")},
        {"x": np.zeros((3, 7), np.float32)},
        {"images": np.zeros((3, 8, 8), np.uint8), "test_images": np.zeros((3, 9, 9), np.uint8)},
        {},
    ],
)
def test_arrays_that_are_neither_pictures_nor_points_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "a.npz")
    assert caught.value.path == tmp_path / "a.npz"


def test_no_cut_or_changed_byte_gives_anything_but_a_data_error(tmp_path: Path) -> None:
    for name, write in (("a.npz", np.savez_compressed), ("b.npz", np.savez), ("c.npy", np.save)):
        buffer = io.BytesIO()
        write(buffer, noise(5, 8, 8))
        content, path = buffer.getvalue(), tmp_path / name
        cuts = [content[:n] for n in (0, 5, 20, 100, len(content) // 2, len(content) - 1)]
        flips = [
            content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :] for i in range(0, min(160, len(content)), 3)
        ]
        for damaged in [*cuts, *flips]:
            path.write_bytes(damaged)
            try:
                opened(path)
            except DataError as error:
                refused = error.path
            else:  # a changed pixel of a file without checksums cannot be seen
                refused = None if damaged not in cuts else "nothing"
            assert refused in (None, path)


def test_headers_that_lie_are_refused_without_allocating(tmp_path: Path) -> None:
    def npy(shape: str, dtype: str = "|u1") -> bytes:
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)

    for content in (
        npy("(99999999999, 8, 8)"),
        npy("(1, 8, 8)", "<U999999999"),
        npy("(" * 3000),
        npy("(-1, 8, 8)"),
        npy(f"(0, {10**25}, 8)"),
        npy("(2, 8, 8)", "|i3"),
        npy("(2, 8, 8)", "|u0"),
        npy("(2, 8, 8)", "|u"),
        b"\x93NUMPY",
        npy("5"),
    ):
        (tmp_path / "a.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", content)
        for name in ("a.npy", "a.npz"):
            with pytest.raises(DataError):
                opened(tmp_path / name)


def test_show_and_list_tell_what_a_set_is(tmp_path: Path) -> None:
    shown = describe("fashion_mnist")
    assert (shown["shape"], shown["train"], shown["held_out"]) == ((1, 28, 28), 10000, 2000)
    assert sum(shown["classes"].values()) == 12000
    assert describe("path") == {"name": "path", "help": describe("path")["help"]}
    np.save(tmp_path / "a.npy", noise(5, 8, 8))
    assert describe("path", DataConfig(name="path", path=PathText(str(tmp_path / "a.npy"))))["train"] == 4


def test_labels_and_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    images = noise(2, 8, 8)
    for arrays in ({"labels": np.array([b"\xff"] * 2)}, {"labels": np.array(["a"] * 2), "names": np.array([], "U1")}):
        np.savez(tmp_path / "a.npz", images=images, **arrays)
        with pytest.raises(DataError):
            opened(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["猫".encode(), b"dog"]))
    assert opened(tmp_path / "a.npz").spec.cond["label"].names == ("dog", "猫")


def test_classes_are_those_that_the_model_learned(tmp_path: Path) -> None:
    """A folder to evaluate on may lack a class; one that the model does not know is an error."""
    spec = Spec(kind="real", shape=(1, 8, 8), modality="image", scale=(127.5,), offset=(127.5,))
    seen_by = SeenBy(spec, ("a", "b", "c"), hold_out_all=True)
    np.savez(tmp_path / "a.npz", images=noise(3, 8, 8), labels=np.array(["c", "b", "c"]))
    config = DataConfig(name="path", path=PathText(str(tmp_path / "a.npz")))
    data = open_data(config, predicts="data", seen_by=seen_by)
    assert data.valid is not None
    assert data.valid.fetch(torch.arange(3)).cond["label"].tolist() == [2, 1, 2]
    assert data.spec.cond["label"].names == ("a", "b", "c")
    np.savez(tmp_path / "a.npz", images=noise(3, 8, 8), labels=np.array(["c", "b", "d"]))
    with pytest.raises(DataError, match="class 'd' is none of the model's"):
        open_data(config, predicts="data", seen_by=seen_by)
