"""The binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html): in its folder, or in the tar.gz, which
is read member by member and never extracted. The Python version is pickled, and refused."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from genai.data.arrays import source_of_arrays
from genai.data.sniff import no_pickled_cifar, reading
from genai.data.source import Source
from genai.data.tar import refuse_outside
from genai.errors import DataError, SecurityError
from genai.schema import DataConfig

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
NUM_RECORDS = 10_000  # of each file
_RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue plane
_MOST_MEMBERS = 100
_MOST_OTHER_BYTES = 1 << 20  # of a member that is not read

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def open_cifar10(path: Path, config: DataConfig, name: str) -> Source:
    x, labels, test_x, test_labels = read_cifar10(path)
    names = np.array(CIFAR10_NAMES)
    return source_of_arrays(x, labels, test_x, test_labels, names=names, path=path, config=config, name=name)


def read_cifar10(path: Path) -> Arrays:
    """Pictures (N, 3, 32, 32) and labels (N,) of the training and the test part, all uint8.

    Raises DataError for files that are missing or of another size, SecurityError for a tar that leads outside itself.
    """
    with reading(path):
        found = _in_folder(path) if path.is_dir() else _in_tar(path)
    if missing := [name for name in (*TRAIN_FILES, TEST_FILE) if name not in found]:
        raise DataError(f"no {missing[0]} in it", path=path, fix="take cifar-10-binary.tar.gz, complete")
    train = np.concatenate([found[name] for name in TRAIN_FILES])
    parts = [(part[:, 1:].reshape(-1, 3, 32, 32), part[:, 0]) for part in (train, found[TEST_FILE])]
    return (*parts[0], *parts[1])


def _in_folder(folder: Path) -> dict[str, np.ndarray]:
    inner = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    found = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        if (inner / name).is_file():
            _check_size(inner / name, name, (inner / name).stat().st_size)
            found[name] = _records((inner / name).read_bytes())
    return found


def _in_tar(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    try:
        with _Bounded(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for number, member in enumerate(archive):
                _check_member(path, member)
                name = PurePosixPath(member.name).name
                if number >= _MOST_MEMBERS or name in found:
                    what = f"'{name}' twice" if name in found else f"more than {_MOST_MEMBERS} members"
                    raise DataError(f"the archive holds {what}", path=path, fix="take cifar-10-binary.tar.gz")
                if name in (*TRAIN_FILES, TEST_FILE) and member.isfile():
                    _check_size(path, name, member.size)
                    content = archive.extractfile(member)
                    assert content is not None  # a file
                    found[name] = _records(content.read())
                elif member.size > _MOST_OTHER_BYTES:
                    what = f"holds '{name}' of {member.size:,} bytes, which CIFAR-10 does not have"
                    raise DataError(f"the archive {what}", path=path, fix="take cifar-10-binary.tar.gz")
    except tarfile.TarError as error:
        raise ValueError(f"no tar.gz: {error}") from error
    return found


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    refuse_outside(member.name, path)
    if not (member.isfile() or member.isdir()):
        what = f"a member of the archive is neither a file nor a folder: '{member.name[:80]}'"
        raise SecurityError(what, path=path)
    if PurePosixPath(member.name).name == "data_batch_1":
        raise no_pickled_cifar(path)


def _check_size(path: Path, name: str, size: int) -> None:
    if size != NUM_RECORDS * _RECORD_BYTES:
        what = f"{name} has {size:,} bytes, expected {NUM_RECORDS:,} records of {_RECORD_BYTES:,}"
        raise DataError(what, path=path, fix="take cifar-10-binary.tar.gz")


def _records(content: bytes) -> np.ndarray:
    if len(content) != NUM_RECORDS * _RECORD_BYTES:
        raise ValueError("it is cut off")
    return np.frombuffer(content, dtype=np.uint8).reshape(NUM_RECORDS, _RECORD_BYTES)


class _Bounded(gzip.GzipFile):
    """Reads no more than the files are together: a small archive may unpack to anything."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if self.tell() > (len(TRAIN_FILES) + 1) * NUM_RECORDS * _RECORD_BYTES + _MOST_MEMBERS * _MOST_OTHER_BYTES:
            raise ValueError("it unpacks to more than CIFAR-10 is")
        return content
