"""Data order and micro-batches, against a plain list of all epochs written out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genai.contract import Batch
from genai.data import listed as listed_module
from genai.data import split as split_module
from genai.data.codec import Codec, LatentSplit
from genai.data.loader import Loader
from genai.data.order import permutation, step_index
from genai.data.source import Dataset, open_data
from genai.errors import ConfigError, DataError, GenaiError
from genai.schema import DataConfig
from pictures import Halves

CPU = torch.device("cpu")


def loader(data: Dataset, batch_size: int = 8, **settings: object) -> Loader:
    given = {"seed": 0, "num_micro": 1, "first_micro": 0, "own_micro": 1, "device": CPU, "dtype": torch.float32}
    return Loader(data.train, batch_size=batch_size, **{**given, **settings})  # type: ignore[arg-type]


def equal(a: Batch, b: Batch) -> bool:
    assert a.index is not None
    assert b.index is not None
    same = torch.equal(a.x, b.x) and torch.equal(a.index, b.index) and a.cond.keys() == b.cond.keys()
    return same and all(torch.equal(a.cond[name], b.cond[name]) for name in a.cond)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(0)
    for label in "ab":
        (root / label).mkdir()
        for i in range(11):
            Image.fromarray(random.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / label / f"{i}.png")
    return root


@pytest.fixture
def streamed(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    data = open_data(DataConfig(name="path", path=str(pictures), valid_fraction=0.1), predicts="data")  # type: ignore[arg-type]
    assert data.train.streams
    return data


def test_each_epoch_shows_every_sample_once_in_its_own_order() -> None:
    orders = [permutation(3, epoch, 50).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in [*orders, permutation(4, 0, 50).tolist()]}) == 4
    # Seeds that agree in their low 32 bits, all that torch's generator keeps, still differ.
    assert permutation(5, 0, 50).tolist() != permutation(5 + 2**32, 0, 50).tolist()


def test_order_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    step_index(0, 10, 8, 20)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("batch_size", [1, 7, 20, 50])
def test_steps_cut_the_written_out_epochs_and_drop_nothing(batch_size: int) -> None:
    n, seed = 20, 9
    epochs = torch.cat([permutation(seed, epoch, n) for epoch in range(12)]).tolist()
    for position in range(0, 150, batch_size):
        assert step_index(seed, position, batch_size, n).tolist() == epochs[position : position + batch_size]


def test_loader_follows_step_index_from_any_position_over_epoch_ends() -> None:
    data = open_data(DataConfig(name="digits"), predicts="data")
    n = len(data.train)
    loads = loader(data, 64, seed=5)
    for position in (0, 64, n - 30, n, 3 * n + 7, 64, 10 * n - 64):
        expected = data.train.fetch(step_index(5, position, 64, n))
        (batch,) = loads.take(position)
        assert equal(batch, expected)
    assert not equal(loads.take(0)[0], loader(data, 64, seed=6).take(0)[0])


def test_processes_together_see_what_one_process_sees() -> None:
    data = open_data(DataConfig(name="digits"), predicts="data")
    position = len(data.train) - 20  # over an epoch's end
    (whole,) = loader(data, 48).take(position)
    one = loader(data, 48, num_micro=6, own_micro=6).take(position)
    several = [
        batch
        for rank in range(3)
        for batch in loader(data, 48, num_micro=6, first_micro=2 * rank, own_micro=2).take(position)
    ]
    assert [len(batch) for batch in one] == [8] * 6
    assert all(equal(a, b) for a, b in zip(one, several, strict=True))
    assert torch.equal(torch.cat([batch.x for batch in several]), whole.x)
    assert torch.equal(torch.cat([batch.cond["label"] for batch in several]), whole.cond["label"])


def test_a_batch_that_is_not_divisible_is_cut_as_evenly_as_can_be() -> None:
    data = open_data(DataConfig(name="digits"), predicts="data")
    n = len(data.train)  # 1,617, odd: a full batch in two processes
    (whole,) = loader(data, n).take(0)
    (first,), (second,) = (loader(data, n, num_micro=2, first_micro=rank).take(0) for rank in range(2))
    assert (len(first), len(second)) == (n // 2, n - n // 2)
    assert torch.equal(torch.cat([first.x, second.x]), whole.x)
    assert [len(part) for part in loader(data, 64, num_micro=3, own_micro=3).take(0)] == [21, 21, 22]


def test_batch_equal_to_the_set_is_the_set_and_a_larger_one_is_refused() -> None:
    data = open_data(DataConfig(name="digits"), predicts="data")
    n = len(data.train)
    (batch,) = loader(data, n).take(0)
    assert batch.index is not None
    assert sorted(batch.index.tolist()) == list(range(n))
    with pytest.raises(ConfigError, match=f"{n + 1}.*{n} samples"):
        loader(data, n + 1)
    with pytest.raises(ConfigError, match="cut into 3"):
        loader(data, 2, num_micro=3)


def test_double_precision_reaches_values_and_leaves_labels() -> None:
    data = open_data(DataConfig(name="digits"), predicts="data")
    (batch,) = loader(data, dtype=torch.float64).take(0)
    assert (batch.x.dtype, batch.cond["label"].dtype) == (torch.float64, torch.int64)


def test_streaming_gives_the_samples_of_a_resident_set(streamed: Dataset, pictures: Path) -> None:
    from genai.data import source

    listed_module.RESIDENT_BYTES = source.RESIDENT_BYTES  # type: ignore[attr-defined]  # restored by the fixture
    resident = open_data(DataConfig(name="path", path=str(pictures)), predicts="data")  # type: ignore[arg-type]
    assert not resident.train.streams
    assert resident.spec == streamed.spec
    index = torch.arange(len(resident.train))
    assert equal(resident.train.fetch(index), streamed.train.fetch(index))
    assert streamed.valid is not None
    assert resident.valid is not None
    assert equal(resident.valid.fetch(torch.tensor([1, 0])), streamed.valid.fetch(torch.tensor([1, 0])))


@pytest.fixture
def two_workers(streamed: Dataset) -> Iterator[Loader]:
    loads = loader(streamed, workers=2, num_micro=2, own_micro=2)
    yield loads
    loads.close()


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def test_workers_change_neither_batches_nor_randomness_and_start_anywhere(
    streamed: Dataset, two_workers: Loader
) -> None:
    alone = loader(streamed, num_micro=2, own_micro=2)
    before = torch.get_rng_state()
    for position in (0, 8, 16, 24, 32, 160, 168, 8):  # on, over epoch ends, forward and back
        for ours, theirs in zip(two_workers.take(position), alone.take(position), strict=True):
            assert equal(ours, theirs)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_latents_of_a_streaming_set_are_those_of_its_pictures(streamed: Dataset, workers: int) -> None:
    latent = replace(
        streamed,
        train=LatentSplit(streamed.train, Codec(Halves(3), streamed.spec, "", torch.device("cpu"), torch.float32)),
    )
    pictures, latents = loader(streamed), loader(latent, workers=workers)
    for position in (0, 8, 16):
        (picture,), (half,) = pictures.take(position), latents.take(position)
        assert torch.equal(half.x, picture.x[..., :4])
        assert torch.equal(half.cond["label"], picture.cond["label"])
    latents.close()


def test_workers_outlive_signals_to_the_group_and_end_with_the_loader(two_workers: Loader) -> None:
    others = children()
    for position in range(0, 80, 8):  # both workers have answered, so both have started
        two_workers.take(position)
    workers = children() - others
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        for worker in workers:
            os.kill(worker, number)
    for position in range(80, 240, 8):
        two_workers.take(position)
    assert workers <= children()
    two_workers.close()
    assert not workers & children()


def test_a_killed_worker_is_an_error_within_seconds(two_workers: Loader) -> None:
    others = children()
    two_workers.take(0)
    for worker in children() - others:
        os.kill(worker, signal.SIGKILL)
    start = time.monotonic()

    def take_all_that_were_read() -> None:
        for position in range(8, 8000, 8):
            two_workers.take(position)

    with pytest.raises(GenaiError, match="process that reads data ended") as caught:
        take_all_that_were_read()
    assert caught.value.exit_code == 1
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named_alike_with_and_without_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(split_module, "_MOST_STREAMED", 1)  # that are read when the set is opened: a good one
    for i in range(10):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "5.png").write_bytes(b"no picture")
    config = DataConfig(name="path", path=str(tmp_path), valid_fraction=0.0)  # type: ignore[arg-type]
    loads = loader(open_data(config, predicts="data"), 10, workers=workers)
    with pytest.raises(DataError, match="not a readable picture") as caught:
        loads.take(0)
    loads.close()
    assert caught.value.exit_code == 3
    assert caught.value.path == tmp_path / "5.png"
    assert len(caught.value.lines()) == 1
    assert "Traceback" not in str(caught.value)
