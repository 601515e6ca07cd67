"""What lies at a path: a folder of pictures or sounds, text, arrays or idx files. Standard library only: configs are
composed with it before anything heavy is loaded."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Literal

from genai.errors import DataError

Kind = Literal[
    "pictures", "sounds", "text", "records", "csv", "tar", "parquet", "npz", "npy", "idx", "idx_folder", "cifar10"
]

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SOUND_SUFFIXES = frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"})
TEXT_SUFFIXES = frozenset(
    [
        ".txt",
        ".text",
        ".md",
        ".rst",
        ".tex",
        ".abc",
        ".smi",
        ".smiles",
        ".fasta",
        ".srt",
        ".html",
        ".py",
        ".c",
        ".h",
        ".cpp",
        ".java",
        ".js",
        ".ts",
        ".go",
        ".rs",
        ".sh",
        ".sql",
        ".css",
    ]
)
EXPECTED = (
    "a folder of pictures or sounds, text, .jsonl, .csv, .tsv, WebDataset tars, parquet, an .npz or .npy file, or "
    "idx files"
)
_MODALITIES = {"sounds": "audio", "text": "text", "records": "text"}
_PACKED_TAR = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
HUB = "hub:"  # before the name of a set on the hub
_IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$")
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_ENOUGH = 1000  # so many more files of one kind than of another say what a folder holds
_MOST_ARRAYS = 1000
_LONGEST_HEADER = 10_000
_LONGEST_AXIS = 1 << 40
_PLAIN_DTYPE = re.compile(r"[|<>=](b1|[ui][1248]|f[248]|c8|c16|[US][1-9]\d{0,5})")  # never one that is unpickled

# Names that common tools give to the same things, ours first.
X_KEYS = ("images", "clips", "audio", "x", "x_train", "train_images", "arr_0")
LABEL_KEYS = ("labels", "y", "y_train", "train_labels")
TEST_X_KEYS = ("test_images", "test_clips", "test_audio", "test_x", "x_test")
TEST_LABEL_KEYS = ("test_labels", "test_y", "y_test")
RATE_KEY = "sample_rate"
CAPTION_KEYS = (("captions",), ("test_captions",))  # of the training and of the test part


@dataclass(frozen=True)
class ArrayHeader:
    """The header of an .npy stream; `start` is the byte at which its values begin."""

    shape: tuple[int, ...]
    dtype: str  # as numpy writes it: "|u1", "<f4"
    fortran: bool
    start: int

    @property
    def num_bytes(self) -> int:
        itemsize = int(self.dtype[2:] or 1) * (4 if self.dtype[1] == "U" else 1)
        return math.prod(self.shape) * itemsize


def existing(path: str | Path) -> Path:
    """The path, with a leading ~ read as the home folder where no such name exists. Raises DataError if missing."""
    given = Path(path)
    try:
        found = given if given.exists() or not str(path).startswith("~") else given.expanduser()
        if found.exists():
            return found
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, no home folder
        raise DataError(f"the path cannot be read: {_reason(error)}", path=given, fix="check data.path") from error
    fix = "check data.path" if given.is_absolute() else f"check data.path, which starts from {Path.cwd()}"
    if _HUB_NAME.fullmatch(str(path)):
        fix += ', or to read a set of that name on the hub: pip install "genai-trainer[hub]"'
    raise DataError("there is no such file or folder", path=given, fix=fix)


def hub_name(path: str | Path) -> str | None:
    """`owner/name` of a set on the hub: what follows `hub:`, or such a name where no such path exists and the library
    that reads them is installed. Raises DataError for `hub:` before anything else."""
    text = str(path)
    if text.startswith(HUB):
        name = text.removeprefix(HUB)
        if not _HUB_NAME.fullmatch(name) and not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise DataError(f"'{text}' is no name of a hub set", fix="type data.path=hub:OWNER/NAME")
        return name
    # What is in a folder that is here is a path, if mistyped, and nobody else's business.
    if not _HUB_NAME.fullmatch(text) or os.path.lexists(text.split("/")[0]):
        return None
    found = importlib.util.find_spec("datasets")
    return text if found is not None and found.origin is not None else None  # no folder that happens to be called so


def kind_of(path: Path) -> Kind:
    """Raises DataError for what is no data that we read."""
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        raise DataError("neither a file nor a folder", path=path, fix=f"give data.path {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return "text"
    if suffix in (".jsonl", ".ndjson"):
        return "records"
    if suffix in (".csv", ".tsv", ".tab"):
        return "csv"
    if suffix in (".npz", ".npy"):
        return "npz" if suffix == ".npz" else "npy"
    if is_idx_name(path.name):
        return "idx"
    if is_tar_name(path.name):
        if path.name.lower().startswith("cifar"):  # as it is published
            return "cifar10"
        refuse_packed_tar(path)
        return "tar"
    if is_parquet_name(path.name):
        return "parquet"
    if is_picture_name(path.name) or is_sound_name(path.name):  # one of them
        return "pictures" if is_picture_name(path.name) else "sounds"
    if suffix == ".zip":
        where = shlex.quote(str(path.with_suffix("")))
        fix = f"type unzip {shlex.quote(str(path))} -d {where}, then data.path={where}"
        raise DataError("a packed folder, in which no picture can be found without unpacking", path=path, fix=fix)
    if suffix in _SPREADSHEETS:
        fix = "save the table as CSV (in UTF-8) with the program that made it, and give that"
        raise DataError("a spreadsheet, which is not read", path=path, fix=fix)
    raise DataError(f"this kind of file is not read, expected {EXPECTED}", path=path, fix="check data.path")


def modality_at(path: Path) -> str:
    """ "image", "video", "audio", "text" or "points"."""
    kind = kind_of(path)
    if kind in _MODALITIES:
        return _MODALITIES[kind]
    if kind not in ("npz", "npy"):
        return "image"
    headers = npz_headers(path) if kind == "npz" else {"x": npy_header(path)}
    key = find_key(headers, X_KEYS, path)
    return modality_of_array(headers[key], path, key)


def modality_of_array(header: ArrayHeader, path: Path, key: str) -> str:
    """What an array under a name holds. Raises DataError for what is no data."""
    kind, dimensions = header.dtype[1:], len(header.shape)
    if key == "audio" or (kind == "i2" and dimensions == 2):
        if (kind == "i2" or kind[0] == "f") and dimensions in (2, 3):
            return "audio"
        got = f"'audio' of type {header.dtype.lstrip('|<>=')} and shape {header.shape}"
        fix = "save sounds as int16, or as numbers from -1 to 1, of shape (N, T) or (N, channels, T)"
        raise DataError(f"{got} is no sound", path=path, fix=fix)
    whole = header.dtype[1] in "uib"
    if whole and dimensions == 5:
        return "video"
    if key == "clips":
        got = f"'clips' of type {header.dtype.lstrip('|<>=')} and shape {header.shape}"
        raise DataError(f"{got} are no clips", path=path, fix="save clips as uint8 (N, frames, H, W, 1 or 3)")
    if whole and dimensions in (3, 4):
        return "image"
    if header.dtype[1] == "f" and len(header.shape) == 2 and header.shape[1] == 2:
        return "points"
    got = f"values of type {header.dtype.lstrip('|<>=')} and shape {header.shape}"
    fix = "save pictures as uint8 (N, H, W) or (N, H, W, 3) with values 0 to 255, clips as uint8 (N, frames, H, W, 3), "
    fix += "points as float32 (N, 2)"
    raise DataError(f"{got} are neither pictures nor clips nor points", path=path, fix=fix)


def find_key(arrays: Mapping[str, object], keys: tuple[str, ...], path: Path) -> str:
    for key in keys:
        if key in arrays:
            return key
    raise DataError(
        f"no array '{keys[0]}' among {', '.join(list(arrays)[:8]) or 'none'}",
        path=path,
        fix=f"save it with numpy.savez(PATH, {keys[0]}=...)",
    )


def is_idx_name(name: str) -> bool:
    return _IDX_NAME.search(name.lower()) is not None


def no_pickled_cifar(path: Path) -> DataError:
    what = "this is the Python version of CIFAR-10, whose files are pickled and never read"
    return DataError(what, path=path, fix="take the binary version, cifar-10-binary.tar.gz")


def is_tar_name(name: str) -> bool:
    """Also of a compressed one, which `refuse_packed_tar` is for."""
    return name.lower().endswith(".tar") or _PACKED_TAR.search(name) is not None


def refuse_packed_tar(path: Path) -> None:
    """Raises DataError for a compressed tar, by its name or its first bytes: a picture cannot be read out of it."""
    with reading(path), path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    if gzipped or _PACKED_TAR.search(path.name):
        fix = f"unpack the gzip first: gunzip {shlex.quote(str(path))}" if gzipped else "unpack it to a .tar first"
        raise DataError("a compressed tar, in which no picture can be found without unpacking", path=path, fix=fix)


def is_parquet_name(name: str) -> bool:
    return name.lower().endswith((".parquet", ".pq"))


def is_hidden(name: str) -> bool:
    """Files that systems and tools leave in folders; nobody means them as data."""
    return name.startswith((".", "@")) or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _is_ours(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder is a run of ours, or samples of one, which are no data."""
    names = {entry.name for entry in entries}
    return {"run.json", "checkpoints"} <= names or (
        "samples.json" in names and not names.isdisjoint({"grid.png", "overview.png"})
    )


def walk(folder: Path) -> Iterator[str]:
    """Every file below a folder, sorted by name within each, relative to it; links are followed, circles and runs of
    ours are not. Raises DataError for what cannot be followed or read."""
    seen: set[str] = set()

    def visit(inner: str) -> Iterator[str]:
        real = os.path.realpath(folder / inner)
        if real in seen:
            return
        seen.add(real)
        try:
            with os.scandir(folder / inner) as found:
                entries = sorted((e for e in found if not is_hidden(e.name)), key=lambda e: e.name)
        except OSError as error:
            what = f"the folder cannot be read: {_reason(error)}"
            raise DataError(what, path=folder / inner, fix="make it readable, or remove it") from error
        if _is_ours(entries):
            if inner:
                return
            entries = [entry for entry in entries if entry.name not in ("grid.png", "overview.png")]
        below = []
        for entry in entries:
            name = os.path.join(inner, entry.name)
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link in a circle, or into a folder that may not be read
                what = f"the link cannot be followed: {_reason(error)}"
                raise DataError(what, path=folder / name, fix="remove it") from error
            if is_folder:
                below.append(name)
            else:
                yield name
        for name in below:
            yield from visit(name)

    return visit("")


def is_picture_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def is_text_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in TEXT_SUFFIXES


def is_sound_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SOUND_SUFFIXES


def _kind_of_folder(folder: Path) -> Kind:
    """Raises DataError for a folder without data, and for one with as many sounds as pictures."""
    first = ""
    pictures = sounds = 0
    is_text = False
    kinds: list[Kind] = []  # pictures come first: an archive may lie beside what was unpacked from it
    for name in walk(folder):
        pictures += is_picture_name(name)
        sounds += is_sound_name(name)
        if pictures or sounds:
            if abs(pictures - sounds) == _ENOUGH:
                break
            continue
        if is_idx_name(name) and os.path.dirname(name) == "":
            return "idx_folder"
        if os.path.basename(name) == "data_batch_1.bin":
            return "cifar10"
        if os.path.basename(name) == "data_batch_1":
            raise no_pickled_cifar(folder)
        if is_tar_name(name):
            kinds.append("tar")
        elif is_parquet_name(name):
            kinds.append("parquet")
        is_text = is_text or is_text_name(name)
        first = first or name
    if pictures and pictures == sounds:
        what = f"{pictures} pictures and as many sounds in one folder"
        raise DataError(what, path=folder, fix="give data.path a folder of one of them")
    if pictures or sounds:
        return "pictures" if pictures > sounds else "sounds"
    if kinds:
        return kinds[0]
    if is_text:
        return "text"
    if not first:
        raise DataError("the folder is empty", path=folder, fix=f"give data.path {EXPECTED}")
    fix = f"give data.path {EXPECTED}"
    if first.lower().endswith(".zip"):
        fix = f"unzip it first: unzip {shlex.quote(str(folder / first))} -d {shlex.quote(str(folder))}"
    if os.path.splitext(first)[1].lower() in (".npz", ".npy", ".csv", ".tsv", ".jsonl"):
        fix = f"give data.path the file itself: {folder / first}"
    raise DataError(f"no picture or sound in the folder, only files like '{first}'", path=folder, fix=fix)


# -- numpy's file format, read without numpy and never unpickled -------------------------------------------------------


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes the readers raise into a DataError that names it."""
    damage = (OSError, EOFError, ValueError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile, KeyError,
              NotImplementedError, RuntimeError, MemoryError, OverflowError)  # fmt: skip
    try:
        yield
    except damage as error:
        raise DataError(f"the file cannot be read: {_reason(error)}", path=path, fix="copy or make it again") from error


def npy_header(path: Path) -> ArrayHeader:
    with reading(path), path.open("rb") as stream:
        return read_header(stream, path, path.stat().st_size)


def npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """The headers of all arrays of an .npz file, except arrays of objects that nothing here reads."""
    with reading(path), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) > _MOST_ARRAYS:
            raise DataError(f"{len(members)} arrays in one file, at most {_MOST_ARRAYS} are read", path=path)
        headers = {}
        for info in members:
            key = info.filename.removesuffix(".npy")
            if key in (*X_KEYS, *LABEL_KEYS, *TEST_X_KEYS, *TEST_LABEL_KEYS, "names", RATE_KEY, *chain(*CAPTION_KEYS)):
                with archive.open(info) as stream:
                    headers[key] = read_header(stream, path, info.file_size, key)
            else:
                headers[key] = ArrayHeader((0,), "|V1", False, 0)
        return headers


def read_header(stream: IO[bytes], path: Path, file_size: int, key: str = "") -> ArrayHeader:
    """Reads and checks the header of an .npy stream of `file_size` bytes."""
    what = f"array '{key}'" if key else "the array"
    if stream.read(6) != b"\x93NUMPY":
        raise DataError(f"{what} is no numpy array", path=path, fix="save it with numpy.save or numpy.savez")
    major, _ = struct.unpack("<BB", stream.read(2))
    length_format = "<H" if major == 1 else "<I"
    (length,) = struct.unpack(length_format, stream.read(struct.calcsize(length_format)))
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    try:
        fields = ast.literal_eval(stream.read(length).decode("latin1"))
        shape, dtype, fortran = fields["shape"], fields["descr"], fields["fortran_order"]
    except (TypeError, RecursionError) as error:
        raise ValueError("a damaged header") from error
    if not isinstance(dtype, str) or not _PLAIN_DTYPE.fullmatch(dtype):
        kind = "objects" if dtype == "|O" else str(dtype)[:40] if isinstance(dtype, str) else "mixed fields"
        fix = "save plain numbers, or texts by np.array(texts, dtype=str)"
        raise DataError(f"{what} holds {kind}, which are never unpickled", path=path, fix=fix)
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < _LONGEST_AXIS for n in shape):
        raise ValueError("a damaged shape")
    start = 8 + struct.calcsize(length_format) + length
    header = ArrayHeader(shape, dtype, bool(fortran), start)
    if header.num_bytes != file_size - start:
        raise ValueError(f"{what} has {file_size - start:,} bytes, its header says {header.num_bytes:,} (cut off?)")
    return header


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:120] or type(error).__name__
