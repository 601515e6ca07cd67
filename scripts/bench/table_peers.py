"""Generated tables of SDV's models and of ours, trained on the same rows for the same time, figures side by side.

    pip install "sdv>=2"
    python scripts/bench/table_peers.py TABLE.csv FOLDER --target COLUMN [--seconds 300] [--threads 2] [--ours ...]

A tenth of the rows, drawn by a seed, is held out (FOLDER/train.csv and test.csv); each model makes as many rows as it
was trained on. Of CTGAN and TVAE an epoch is timed first, by the processor's clock, and as many are trained as fit into
--seconds beside what they need to prepare; the Gaussian copula of SDV takes what it takes. Each of --ours is what
follows `genai train`, as in --ours vae "diffusion model.steps=100": its time is the limit trainer.max_minutes, by the
clock on the wall. So on a machine that does other work, too, the peers have the advantage. What a model has made is in
FOLDER/NAME.csv, and a model whose file is there is not trained again. The figures are those of table_figures.py.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from table_figures import is_numeric, print_figures, read_texts

PEERS = ["copula", "ctgan", "tvae"]
OURS = ["vae", "diffusion", "gan", "copula"]
TIMED = 0.05  # of the budget that an epoch is timed for, at least


def split(table: Path, folder: Path) -> tuple[Path, Path]:
    """The rows as they are, nine tenths and one."""
    parts = folder / "train.csv", folder / "test.csv"
    with table.open(encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    order = np.random.default_rng(0).permutation(len(rows))
    count = len(rows) // 10
    for path, chosen in zip(parts, (order[count:], order[:count]), strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *(rows[i] for i in np.sort(chosen))])
    return parts


def fitted(kind: Any, frame: Any, metadata: Any, **settings: Any) -> tuple[Any, float]:
    """A model of SDV, and the seconds of the processor that it took, over all threads."""
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
    model = kind(metadata, **settings)
    start = time.process_time()
    model.fit({"table": frame})
    return model, time.process_time() - start


def seconds_an_epoch(kind: Any, frame: Any, metadata: Any, threads: int, budget: float) -> float:
    """By what some epochs take more than one, so that preparations do not count, and as if all threads were always
    busy: no more than it is on a machine that does nothing else, however busy this one is."""

    def seconds(epochs: int) -> float:
        return fitted(kind, frame, metadata, enable_gpu=False, epochs=epochs)[1] / threads

    seconds(1)  # warms up
    one, more = seconds(1), 4
    while (found := seconds(1 + more) - one) < TIMED * budget:
        more *= 2
    return found / more


def peers(names: Sequence[str], train: Path, folder: Path, seconds: float, threads: int) -> dict[str, Path]:
    if importlib.util.find_spec("sdv") is None:
        print("SDV's models are left out, it is not installed: pip install sdv")
        return {}
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as genai does: threads that spin hold up other processes
    import pandas as pd
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

    torch.set_num_threads(threads)
    kinds = {name: "numerical" if is_numeric(cells) else "categorical" for name, cells in read_texts(train).items()}
    # The empty cell alone is missing: "None" is a category of its own.
    texts = {name: str for name, kind in kinds.items() if kind == "categorical"}
    frame = pd.read_csv(train, keep_default_na=False, na_values=[""], dtype=texts)
    columns = {name: {"sdtype": kind} for name, kind in kinds.items()}
    metadata = Metadata.load_from_dict({"tables": {"table": {"columns": columns}}, "relationships": []})
    found = {}
    known = {"copula": GaussianCopulaSynthesizer, "ctgan": CTGANSynthesizer, "tvae": TVAESynthesizer}
    for name in names:
        kind, found[name] = known[name], folder / f"{name}.csv"
        if found[name].is_file():
            continue
        settings, epoch = {}, ""
        if name != "copula":
            settings = {"enable_gpu": False}
            each = seconds_an_epoch(kind, frame, metadata, threads, seconds)
            settings["epochs"] = max(1, round(seconds / each))
            epoch = f", {settings['epochs']} epochs of {each:.2f} s"
        model, took = fitted(kind, frame, metadata, **settings)
        model.sample(len(frame))["table"].to_csv(found[name], index=False)
        print(f"{name}: {took / threads:.0f} s of {threads} threads with preparations{epoch}", flush=True)
    return found


def ours(words: str, train: Path, folder: Path, seconds: float, threads: int) -> Path | None:
    """What a model of ours has made; None where it could not be trained."""
    name = "own_" + "_".join(word.rpartition("/")[2] for word in shlex.split(words))
    made, run = folder / f"{name}.csv", folder / "runs" / name
    if made.is_file():
        return made
    with train.open(encoding="utf-8", newline="") as file:
        count = sum(1 for _ in csv.reader(file)) - 1
    limits = [f"trainer.max_minutes={seconds / 60}", f"threads={threads}", "device=cpu"]
    start = time.perf_counter()
    for line in (
        ["train", *shlex.split(words), f"data.path={train}", *limits, f"run.dir={run}"],
        ["sample", str(run), "-n", str(count), "--out", str(run / "samples" / "table")],
    ):
        done = subprocess.run([sys.executable, "-m", "genai", *line], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} is left out: {(done.stderr.strip() or 'no message').splitlines()[-1]}", flush=True)
            return None
    shutil.copyfile(run / "samples" / "table" / "samples.csv", made)
    print(f"{name}: {time.perf_counter() - start:.0f} s from Enter to the table", flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    parser.add_argument("--ours", nargs="*", default=OURS)
    given = parser.parse_args()
    if given.folder is None:
        print("not measured, it needs a table: see the head of this script")
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    train, test = split(given.table, given.folder)
    files = peers(given.peers, train, given.folder, given.seconds, given.threads)
    for words in given.ours:
        made = ours(words, train, given.folder, given.seconds, given.threads)
        if made is not None:
            files[made.stem] = made
    print_figures(train, test, files, given.target)


if __name__ == "__main__":
    main()
