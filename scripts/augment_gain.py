"""What drawn samples add to a small labelled training set: held-out figures of a classifier with and without them.

    python scripts/augment_gain.py pictures|table [--seeds 0 1 2 3 4] [--minutes 2] [--model diffusion] [KEY=VALUE ...]

pictures: 20 of each class of Fashion-MNIST as the package has it, a small CNN, 2,000 held-out pictures.
table: 200 rows of the breast cancer data, 12 of them malignant, a logistic regression; held out are all other rows.

For each seed the set is drawn, a model is trained on it alone, `genai sample --append-to` writes the set with drawn
samples beside its own (of the table so many that both classes are equal), and the same classifier is trained on both;
of the table a third time, on the real rows with model.class_weights=balanced, as one would do without a model. Prints
the figures of each seed, and the mean gains over the real ones alone with their standard errors. The classifiers of the
pictures take as many steps in both cases.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

import genai
from genai.console import Console
from genai.data.packaged import FASHION_NAMES

QUIET = Console(quiet=True)
EACH, ROWS, RARE = 20, 200, 12
FIGURES = ("accuracy", "balanced_accuracy", "auc")


def pictures(folder: Path, seed: int) -> tuple[Path, Path]:
    """Folders of classes: the small set, and what is held out."""
    with np.load(str(files("genai.data.builtin") / "fashion_mnist.npz")) as found:
        parts = {"train": (found["images"], found["labels"]), "test": (found["test_images"], found["test_labels"])}
    random = np.random.RandomState(seed)
    for name, (images, labels) in parts.items():
        for label, title in enumerate(FASHION_NAMES):
            own = np.flatnonzero(labels == label)
            own = random.permutation(own)[:EACH] if name == "train" else own
            at = folder / name / title.replace("/", " or ")
            at.mkdir(parents=True)
            for i in own:
                Image.fromarray(images[i]).save(at / f"{i}.png")
    return folder / "train", folder / "test"


def table(folder: Path, seed: int) -> tuple[Path, Path]:
    with (files("genai.data.builtin") / "breast_cancer.csv").open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    random = np.random.RandomState(seed)
    rare, others = ([row for row in rows if (row[-1] == "malignant") == wanted] for wanted in (True, False))
    train, test = [], []
    for part, count in ((rare, RARE), (others, ROWS - RARE)):
        order = random.permutation(len(part))
        train += [part[i] for i in order[:count]]
        test += [part[i] for i in order[count:]]
    for name, part in (("train", train), ("test", test)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *part])
    return folder / "train.csv", folder / "test.csv"


def scored(kind: str, data: Path, test: Path, run: Path, seed: int, *more: str) -> dict[str, float]:
    """Figures on the held-out data of a classifier that learned from all of `data`."""
    settings = [
        *more,
        f"data.path={data}",
        "data.valid_fraction=0",
        f"run.dir={run}",
        f"seed={seed}",
        "trainer.preview_every=0",
    ]
    if kind == "pictures":
        settings += ["model.augment=[mirror,translation]", "model.dropout=0.2", "trainer.max_minutes=null",
                     "trainer.max_steps=1500"]  # fmt: skip
    else:
        settings += ["experiment=discriminative/logistic", "data.target=diagnosis"]
    genai.train("discriminative", *settings, console=QUIET)
    figures = genai.evaluate(run, f"data.path={test}", console=QUIET)
    return {name: figures[name] for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["pictures", "table"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--model", default="diffusion")
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE of the model")
    asked = parser.parse_args()
    gains: dict[str, list[list[float]]] = {}
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as at:
            folder = Path(at)
            data, test = (pictures if asked.kind == "pictures" else table)(folder, seed)
            target = [] if asked.kind == "pictures" else ["data.target=diagnosis"]
            limit = [] if asked.model == "copula" else [f"trainer.max_minutes={asked.minutes}"]
            genai.train(
                asked.model, f"data.path={data}", *target, *limit, "data.valid_fraction=0", f"seed={seed}",
                f"run.dir={folder / 'model'}", "trainer.preview_every=0", *asked.settings, console=QUIET,
            )  # fmt: skip
            few = None if asked.kind == "pictures" else ["malignant"]
            count = asked.per_class if asked.kind == "pictures" else ROWS - 2 * RARE
            genai.sample(
                folder / "model",
                append_to=data,
                per_class=count,
                labels=few,
                seed=seed,
                out=folder / "more",
                console=QUIET,
            )
            more = folder / "more" if asked.kind == "pictures" else folder / "more" / "train.csv"
            ways = {"real": scored(asked.kind, data, test, folder / "real", seed)}
            ways["with drawn"] = scored(asked.kind, more, test, folder / "drawn", seed)
            if asked.kind == "table":
                weights = "model.class_weights=balanced"
                ways["weighed"] = scored(asked.kind, data, test, folder / "weighed", seed, weights)
            told = [f"{way} " + ", ".join(f"{of[name]:.4f}" for name in FIGURES) for way, of in ways.items()]
            print(f"seed {seed}:", "; ".join(told), flush=True)
            real = ways.pop("real")
            for way, of in ways.items():
                gains.setdefault(way, []).append([of[name] - real[name] for name in FIGURES])
    print("gains in", ", ".join(FIGURES))
    for way, each in gains.items():
        found = np.array(each)
        error = found.std(axis=0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.zeros(found.shape[1])
        print(f"{way}:", ", ".join(f"{mean:+.4f} +- {e:.4f}" for mean, e in zip(found.mean(0), error, strict=True)))


if __name__ == "__main__":
    main()
