"""The idx format of MNIST and its kin, plain or gzipped (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from genai.data.arrays import source_of_arrays
from genai.data.sniff import is_idx_name, reading
from genai.data.source import Source
from genai.errors import DataError
from genai.schema import DataConfig

_IMAGES = re.compile(r"images([-.])idx3-ubyte(\.gz)?$", re.IGNORECASE)
_TEST = re.compile(r"t10k|test|valid", re.IGNORECASE)
_UNSIGNED_BYTES = 8
_LARGEST_RATIO = 1040  # deflate cannot pack better


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes. Raises DataError if it is none, or cut off."""
    with reading(path), cast("BinaryIO", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")) as file:
        zeros, kind, count = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != _UNSIGNED_BYTES or count != dimensions:
            expected = f"an idx file of unsigned bytes in {dimensions} dimensions"
            raise DataError(f"not {expected}", path=path, fix="check data.path")
        shape = struct.unpack(f">{count}I", file.read(4 * count))
        wanted = math.prod(shape)
        if wanted > path.stat().st_size * _LARGEST_RATIO:
            raise ValueError(f"its header says {wanted:,} bytes, which it cannot hold")
        values = file.read(wanted)
        if len(values) != wanted or file.read(1):
            got = f"{len(values):,} bytes" if len(values) < wanted else "more"
            raise ValueError(f"its header says {wanted:,} bytes, it has {got} (cut off?)")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def open_idx_folder(folder: Path, config: DataConfig, name: str) -> Source:
    """`train-images-idx3-ubyte` and its labels, and `t10k-...` or `test-...` as held-out data where they are there."""
    # A plain file beside its gzipped twin counts once: sorted, the plain one comes first and stays.
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if _IMAGES.search(path.name):
            found.setdefault(path.name.removesuffix(".gz"), path)
    tests = [path for name_, path in found.items() if _TEST.search(name_)]
    trains = [path for path in found.values() if path not in tests]
    if len(trains) != 1 or len(tests) > 1:
        listed = ", ".join(found) or ", ".join(p.name for p in folder.iterdir() if is_idx_name(p.name))
        what = "one file ...images-idx3-ubyte to train on and at most one t10k- or test-images"
        raise DataError(f"expected {what}, found {listed}", path=folder, fix="give data.path one of the files")
    return open_idx_file(trains[0], config, name, test=tests[0] if tests else None)


def open_idx_file(path: Path, config: DataConfig, name: str, *, test: Path | None = None) -> Source:
    """Pictures of one file, with the labels beside it if they are there."""
    x, labels = _pictures_and_labels(path)
    test_x, test_labels = (None, None) if test is None else _pictures_and_labels(test)
    return source_of_arrays(x, labels, test_x, test_labels, path=path, config=config, name=name)


def _pictures_and_labels(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if _IMAGES.search(path.name) is None:
        raise DataError("an idx file whose name says no pictures", path=path, fix="give data.path ...images-idx3-ubyte")
    plain = _IMAGES.sub(r"labels\1idx1-ubyte", path.name)
    beside = next((p for p in (path.with_name(plain), path.with_name(plain + ".gz")) if p.exists()), None)
    return read_idx(path, 3), None if beside is None else read_idx(beside, 1)
