"""The packaged and the drawn sets, against their originals and their closed forms."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons

from genai.data.packaged import FASHION_NAMES
from genai.data.points import GRID_DEVIATION, RING_DEVIATION, grid_centres, ring_centres
from genai.data.source import Dataset, Source, modality_of, open_data, open_source
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig

ALL = torch.arange


def opened(name: str, **settings: object) -> Dataset:
    return open_data(DataConfig(name=name, **settings), predicts="data")  # type: ignore[arg-type]


def in_data_units(data: Dataset, x: torch.Tensor) -> np.ndarray:
    scale, offset = np.array(data.spec.scale), np.array(data.spec.offset)
    return np.asarray(x.double().numpy() * scale + offset)


def idx_by_hand(path: Path, dimensions: int) -> np.ndarray:
    with gzip.open(path) as file:
        content = file.read()
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content[4 + 4 * dimensions :], np.uint8).reshape(shape)


@pytest.fixture(scope="module")
def fashion_folder() -> Path:
    folder = os.environ.get("GENAI_TEST_DATA", "")
    if not folder or not (Path(folder) / "fashion_mnist").is_dir():
        pytest.skip("GENAI_TEST_DATA does not name the test data")
    return Path(folder) / "fashion_mnist"


def test_packaged_fashion_mnist_is_the_first_of_each_class_of_the_original(fashion_folder: Path) -> None:
    images = idx_by_hand(fashion_folder / "train-images-idx3-ubyte.gz", 3)
    labels = idx_by_hand(fashion_folder / "train-labels-idx1-ubyte.gz", 1)
    source = open_source(DataConfig(name="fashion_mnist"))
    assert isinstance(source, Source)
    assert isinstance(source.train.x, np.ndarray)
    assert source.train.labels is not None
    for label in range(10):
        expected = images[labels == label][:1000]
        assert np.array_equal(source.train.x[source.train.labels == label][:, 0], expected)


def test_packaged_fashion_mnist_has_equal_classes_and_its_own_test_part() -> None:
    data = opened("fashion_mnist", valid_fraction=0.0)
    assert data.valid is not None
    for split, per_class in ((data.train, 1000), (data.valid, 200)):
        labels = split.fetch(ALL(len(split))).cond["label"]
        assert torch.bincount(labels).tolist() == [per_class] * 10
    assert data.spec.shape == (1, 28, 28)
    assert data.spec.cond["label"].names == FASHION_NAMES


def test_complete_fashion_mnist_is_read_from_its_folder(fashion_folder: Path) -> None:
    data = opened("fashion_mnist", path=str(fashion_folder))
    images = idx_by_hand(fashion_folder / "t10k-images-idx3-ubyte.gz", 3)
    labels = idx_by_hand(fashion_folder / "t10k-labels-idx1-ubyte.gz", 1)
    assert len(data.train) == 60000
    assert data.valid is not None
    batch = data.valid.fetch(ALL(10000))
    assert np.array_equal(np.rint(batch.x[:, 0].numpy() * 127.5 + 127.5), images)
    assert np.array_equal(batch.cond["label"].numpy(), labels)
    assert data.spec.cond["label"].names == FASHION_NAMES


def test_digits_are_those_of_scikit_learn() -> None:
    values, labels = load_digits(return_X_y=True)
    source = open_source(DataConfig(name="digits"))
    assert isinstance(source, Source)
    expected = [[round(v * 255 / 16) for v in row] for row in values.tolist()]
    assert np.array_equal(np.asarray(source.train.x).reshape(-1, 64), np.array(expected))
    assert np.array_equal(source.train.labels, labels)


def test_pictures_fill_minus_one_to_one_and_come_back_exactly() -> None:
    data, source = opened("digits", valid_fraction=0.0), open_source(DataConfig(name="digits"))
    assert isinstance(source, Source)
    x = data.train.fetch(ALL(len(data.train))).x
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(np.rint(in_data_units(data, x)), source.train.x)


def test_ring8_and_grid25_have_the_stated_modes_and_deviation() -> None:
    for name, centres, deviation in (
        ("ring8", ring_centres(), RING_DEVIATION),
        ("grid25", grid_centres(), GRID_DEVIATION),
    ):
        data = opened(name, valid_fraction=0.0)
        points = in_data_units(data, data.train.fetch(ALL(len(data.train))).x)
        distance = np.linalg.norm(points[:, None] - centres, axis=2)
        nearest = distance.argmin(axis=1)
        assert np.bincount(nearest).tolist() == [len(points) // len(centres)] * len(centres)
        measured = (points - centres[nearest]).std()
        assert measured == pytest.approx(deviation, rel=0.01)
        # Of a normal in the plane exp(-9/2) lies beyond three deviations.
        beyond = (distance.min(axis=1) > 3 * deviation).mean()
        assert beyond == pytest.approx(np.exp(-4.5), rel=0.15)
        assert data.spec.cond == {}
    assert np.allclose(np.linalg.norm(ring_centres(), axis=1), 1)
    assert sorted({round(v, 9) for v in grid_centres().ravel()}) == [-4, -2, 0, 2, 4]


def test_moons_have_the_shape_of_scikit_learns() -> None:
    data = opened("moons", valid_fraction=0.0)
    batch = data.train.fetch(ALL(len(data.train)))
    points = in_data_units(data, batch.x)
    reference, labels = make_moons(20000, noise=0.05, random_state=1)
    for label in (0, 1):
        ours, theirs = points[batch.cond["label"].numpy() == label], reference[labels == label]
        assert np.allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.01)
        assert np.allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.01)


@pytest.mark.parametrize("name", ["ring8", "grid25", "moons"])
def test_closed_form_units_give_zero_mean_and_unit_deviation(name: str) -> None:
    data = opened(name, valid_fraction=0.0)
    x = data.train.fetch(ALL(len(data.train))).x
    assert torch.allclose(x.mean(dim=0), torch.zeros(2), atol=3e-3)
    assert torch.allclose(x.std(dim=0), torch.ones(2), atol=3e-3)


def test_split_is_seeded_disjoint_and_complete() -> None:
    def held_out(**settings: object) -> list[bytes]:
        data = opened("ring8", **settings)
        assert data.valid is not None
        rows = [split.fetch(ALL(len(split))).x.numpy() for split in (data.train, data.valid)]
        together = {row.tobytes() for part in rows for row in part}
        assert len(together) == len(rows[0]) + len(rows[1]) == 100_000
        return [row.tobytes() for row in rows[1]]

    first = held_out()
    assert len(first) == 10_000
    assert first == held_out(split_seed=0)
    assert first != held_out(split_seed=1)
    assert len(held_out(valid_fraction=0.25)) == 25_000
    assert opened("ring8", valid_fraction=0.0).valid is None


def test_fingerprint_changes_with_split_and_size_and_with_nothing_else() -> None:
    reference = opened("digits").fingerprint
    assert reference == opened("digits", workers=3).fingerprint
    others = [opened("digits", split_seed=1), opened("digits", valid_fraction=0.5), opened("digits", size=16)]
    assert len({reference, *(data.fingerprint for data in others)}) == 4


def test_a_target_becomes_x_and_the_picture_its_condition() -> None:
    config = DataConfig(name="digits")
    as_data, as_target = open_data(config, predicts="data"), open_data(config, predicts="target")
    index = torch.tensor([5, 0, 99])
    usual, turned = as_data.train.fetch(index), as_target.train.fetch(index)
    assert torch.equal(turned.x, usual.cond["label"])
    assert turned.x.dtype == torch.int64
    assert torch.equal(turned.cond["input"], usual.x)
    assert as_target.spec.classes == 10
    assert as_target.spec.cond["input"].shape == (1, 8, 8)
    with pytest.raises(DataError, match="no labels"):
        open_data(DataConfig(name="ring8"), predicts="target")


def test_settings_that_a_drawn_set_would_ignore_are_refused() -> None:
    for settings in ({"path": "."}, {"size": 32}, {"channels": 1}):
        with pytest.raises(ConfigError, match=r"points|drawn"):
            opened("grid25", **settings)


def test_naming_a_set_and_its_modality_loads_neither_torch_nor_numpy(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8))
    code = (
        "import sys; from genai.data.source import modality_of; import genai.registry as r; "
        f"print(modality_of('digits', None), modality_of('path', {str(tmp_path / 'a.npz')!r})); r.components('data');"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["image", "image"]
    assert modality_of("moons", None) == "points"


def test_mean_and_deviation_of_each_channel_are_those_of_the_training_part() -> None:
    data = opened("emoji", size=16)
    x = data.train.fetch(torch.arange(len(data.train))).x
    # Of a thousand of them.
    assert data.spec.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=0.03)
    assert data.spec.deviation == pytest.approx(x.std((0, 2, 3)).tolist(), abs=0.03)
    few = opened("digits", valid_fraction=0.5)
    x = few.train.fetch(torch.arange(len(few.train))).x
    assert few.spec.mean == pytest.approx([float(x.mean())], abs=1e-5)
    assert few.spec.deviation == pytest.approx([float(x.std(correction=0))], abs=1e-5)
