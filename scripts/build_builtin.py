"""Rebuilds the sets that come with the package from their originals.

    python scripts/build_builtin.py FASHION_MNIST_FOLDER EMOJI_NPZ

FASHION_MNIST_FOLDER holds the four original idx files, plain or gzipped; EMOJI_NPZ the pictures of npm's
emoji-datasource-google at 64 x 64 on white with `images`, `captions`, `categories`; the digits come from scikit-learn.
Writes src/genai/data/builtin/{fashion_mnist,digits,emoji}.npz, byte for byte the same each time under one version of
zlib.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from genai.data.idx import read_idx

BUILTIN = Path(__file__).resolve().parent.parent / "src" / "genai" / "data" / "builtin"
# Of the values of the original files, after their headers.
SHA256 = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def first_of_each(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` pictures of each class, in the order of the original."""
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))
    return images[chosen], labels[chosen]


def fashion_mnist(folder: Path) -> dict[str, np.ndarray]:
    originals = {}
    for name, expected in SHA256.items():
        path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
        originals[name] = read_idx(path, 3 if "images" in name else 1)
        if (got := hashlib.sha256(originals[name].data).hexdigest()) != expected:
            raise SystemExit(f"{path} is not the original: sha256 of its values is {got}, expected {expected}")
    images, labels = first_of_each(originals["train-images-idx3-ubyte"], originals["train-labels-idx1-ubyte"], 1000)
    test_images, test_labels = first_of_each(
        originals["t10k-images-idx3-ubyte"], originals["t10k-labels-idx1-ubyte"], 200
    )
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


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    np.savez_compressed(BUILTIN / "fashion_mnist.npz", **fashion_mnist(Path(sys.argv[1])))  # type: ignore[arg-type]
    np.savez_compressed(BUILTIN / "digits.npz", **digits())  # type: ignore[arg-type]
    np.savez_compressed(BUILTIN / "emoji.npz", **emoji(Path(sys.argv[2])))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
