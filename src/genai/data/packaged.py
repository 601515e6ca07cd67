"""Sets that come with the package and need no network; scripts/build_builtin.py makes them from the originals."""

from __future__ import annotations

import hashlib
import io
import lzma
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from genai.data import sounds
from genai.data.arrays import captioned, source_of_arrays
from genai.data.path import open_path, read_with_names
from genai.data.sheet import Sheet, read_csv
from genai.data.source import Corpus, Part, Source, refuse_columns, refuse_foreign_settings
from genai.data.texts import open_corpus
from genai.errors import DataError
from genai.schema import DataConfig

FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DIGIT_NAMES = tuple("0123456789")
EMOJI_NAMES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
    "Symbols", "Travel & Places",
)  # fmt: skip


def open_fashion_mnist(config: DataConfig) -> Source:
    """1,000 + 200 pictures a class; with data.path anything in its form (the complete set is fashion_mnist_full)."""
    return _open("fashion_mnist", FASHION_NAMES, config)


def open_digits(config: DataConfig) -> Source:
    """1,797 pictures; the set has no test part, so a seeded part of it is held out."""
    return _open("digits", DIGIT_NAMES, config)


def open_emoji(config: DataConfig) -> Source:
    """1,906 pictures with captions; the set has no test part, so a seeded part of it is held out."""
    return _open("emoji", EMOJI_NAMES, config)


def open_spoken_digits(config: DataConfig) -> Source:
    """1,100 clips with the spoken word as caption; the set has no test part, so a seeded part of it is held out."""
    if config.path is not None:
        return read_with_names(config, DIGIT_NAMES)
    found = _packaged("spoken_digits")
    rate = int(found["sample_rate"])
    clips = np.split(unpacked(found["differences"]), np.cumsum(found["lengths"])[:-1])
    frame, notes = sounds.frame_of([sounds.Look(rate, 1, len(clip)) for clip in clips], config)
    x = np.stack([sounds.fit(clip[None], rate, frame) for clip in clips])
    part = Part(x, found["labels"].astype(np.int64), tuple(found["captions"].tolist()))
    return Source(
        "spoken_digits",
        "audio",
        part,
        classes=len(DIGIT_NAMES),
        names=DIGIT_NAMES,
        notes=tuple(notes),
        sample_rate=frame.rate,
    )


def open_shakespeare(config: DataConfig) -> Corpus:
    """Plays, as text; with data.path any text."""
    return _open_text("shakespeare", config)


def open_tang_poems(config: DataConfig) -> Corpus:
    """Poems, each below its title and its poet; with data.path any text."""
    return _open_text("tang_poems", config)


def open_wine(config: DataConfig) -> Sheet:
    """178 wines of 3 cultivars by 13 chemical measurements; with data.path any table."""
    return _open_table("wine", config)


def open_breast_cancer(config: DataConfig) -> Sheet:
    """569 tumours, benign or malignant, by 30 measurements of their cells; with data.path any table."""
    return _open_table("breast_cancer", config)


def open_diabetes(config: DataConfig) -> Sheet:
    """442 patients by 10 measurements, and how the disease progressed in a year, a number; with data.path any table."""
    return _open_table("diabetes", config)


def open_penguins(config: DataConfig) -> Sheet:
    """344 penguins of 3 species, numbers and categories, 19 values missing; with data.path any table."""
    return _open_table("penguins", config)


def _open_table(name: str, config: DataConfig) -> Sheet:
    if config.path is not None:
        opened = open_path(config)
        if not isinstance(opened, Sheet):
            what = f"data={name} has tables, here is none"
            raise DataError(what, path=config.path, fix="type data=path")
        return opened
    refuse_foreign_settings(config, "table")
    with as_file(files("genai.data.builtin").joinpath(f"{name}.csv")) as path:
        return replace(read_csv(path, name, skip=False), path=name)


def _open_text(name: str, config: DataConfig) -> Corpus:
    if config.path is not None:
        return open_corpus(config, name)
    refuse_columns(config)
    content = lzma.decompress(files("genai.data.builtin").joinpath(f"{name}.txt.xz").read_bytes())
    stamp = hashlib.sha256(content).hexdigest()
    return Corpus(name, lambda: iter([content.decode()]), name, stamp, len(content), marked=False)


def packed(levels: np.ndarray) -> np.ndarray:
    """(n,) int16 -> (2, n) uint8: the lower and the upper bytes of the differences from one value to the next, which
    deflate packs a seventh smaller than the values."""
    differences = np.diff(levels, prepend=levels.dtype.type(0)).astype("<i2")
    return np.ascontiguousarray(differences.view(np.uint8).reshape(-1, 2).T)


def unpacked(differences: np.ndarray) -> np.ndarray:
    """(2, n) of `packed` -> (n,) int16. Both wrap around alike."""
    return np.cumsum(np.ascontiguousarray(differences.T).view("<i2")[:, 0], dtype=np.int16)


def _packaged(name: str) -> dict[str, np.ndarray]:
    packaged = files("genai.data.builtin").joinpath(f"{name}.npz")
    with np.load(io.BytesIO(packaged.read_bytes()), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _open(name: str, names: tuple[str, ...], config: DataConfig) -> Source:
    if config.path is not None:
        return read_with_names(config, names)
    found = _packaged(name)
    path = Path(f"{name}.npz")
    source = source_of_arrays(
        found["images"],
        found["labels"],
        found.get("test_images"),
        found.get("test_labels"),
        names=np.array(names),
        path=path,
        config=config,
        name=name,
    )
    return replace(source, train=captioned(source.train, found.get("captions"), "captions", path))
