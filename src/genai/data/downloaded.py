"""Complete sets that are downloaded when they are first used: where from, by which bytes they are known, how read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genai.console import Console
from genai.data import cifar
from genai.data.arrays import source_of_arrays
from genai.data.download import RemoteFile, data_folder, fetch
from genai.data.idx import read_idx
from genai.data.packaged import DIGIT_NAMES, FASHION_NAMES
from genai.data.path import read_with_names
from genai.data.source import Source
from genai.schema import DataConfig

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # pictures and labels to train on, then held-out ones


@dataclass(frozen=True)
class CompleteSet:
    """`mirrors` serve each file below them; `read` takes the paths of `files`, or of the one folder `unpacked`."""

    files: tuple[RemoteFile, ...]
    mirrors: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[Sequence[Path]], Arrays]
    unpacked: str = ""  # the folder in the archive: used as it is, if its files have the right sizes


def _read_idx_files(paths: Sequence[Path]) -> Arrays:
    images, labels, test_images, test_labels = paths
    return read_idx(images, 3), read_idx(labels, 1), read_idx(test_images, 3), read_idx(test_labels, 1)


# Sizes and sha256 of the packed files agree with TensorFlow Datasets' list (tensorflow_datasets/url_checksums).
SETS = {
    "mnist": CompleteSet(
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        names=DIGIT_NAMES,
        read=_read_idx_files,
    ),
    "fashion_mnist_full": CompleteSet(
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        names=FASHION_NAMES,
        read=_read_idx_files,
    ),
    "cifar10": CompleteSet(
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        mirrors=(
            "https://www.cs.toronto.edu/~kriz",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10",
            "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets",
        ),
        names=cifar.CIFAR10_NAMES,
        read=lambda paths: cifar.read_cifar10(paths[0]),
        unpacked=cifar.FOLDER,
    ),
}


def open_downloaded(config: DataConfig) -> Source:
    """The complete set that `config` names; with data.path that copy of it. Raises as `fetch` and the readers do."""
    chosen = SETS[config.name]
    if config.path is not None:
        return read_with_names(config, chosen.names)
    paths = _located(config.name)
    x, labels, test_x, test_labels = chosen.read(paths)
    return source_of_arrays(
        x,
        labels,
        test_x,
        test_labels,
        names=np.array(chosen.names),
        path=paths[0],
        config=config,
        name=config.name,
    )


def prepare(config: DataConfig, console: Console | None = None) -> Path | None:
    """Downloads what the set lacks and returns its folder; None for a set that needs no download. Raises as `fetch`."""
    if config.path is not None or config.name not in SETS:
        return None
    _located(config.name, console)
    return data_folder() / config.name


def _located(name: str, console: Console | None = None) -> list[Path]:
    chosen = SETS[name]
    folder = data_folder() / name
    if chosen.unpacked and (folder / chosen.unpacked).is_dir() and not (folder / chosen.files[0].name).exists():
        return [folder / chosen.unpacked]
    return fetch(name, chosen.files, chosen.mirrors, console)
