"""Bounds on -log p(x) of black and white pictures: a VAE of ours and pythae's of the same size, on the same split.

    pip install --no-deps pythae
    python scripts/nats.py PATH.npz [--epochs 60] [--latents 16] [--samples 200]

Both have one hidden layer of 512 units on each side, learn from the same pictures, of which the lighter half of the
grey levels is white, in batches of 64 at a rate of 1e-3, which ours lowers over the last half (at a constant one it was
a nat worse than pythae's on 4,000 pictures), and keep the weights of the epoch with the best held-out bound. Each is
measured by its own importance-weighted bound; pythae's `get_nll` returns the logarithm of p(x), so its sign is turned.
Without pythae ours alone is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

import genai
from genai.config import compose_data
from genai.console import Console
from genai.data.source import open_data
from genai.factory import open_dataset, open_trained
from genai.models.likelihood import binarised

HIDDEN, BATCH, RATE = 512, 64, 1e-3
HELD_OUT = "data.valid_fraction=0.2"


def ours(path: str, epochs: int, latents: int, samples: int, folder: str) -> tuple[float, float, Any]:
    quiet = Console(quiet=True)
    count = len(open_data(compose_data(path, [HELD_OUT]), predicts="data").train)
    began = time.perf_counter()
    run = genai.train(
        "vae",
        "experiment=vae/digits_nats",
        f"data.path={path}",
        HELD_OUT,
        f"model.latent_dim={latents}",
        f"net.width={HIDDEN}",
        "net.layers=1",
        "optim=adam",
        f"optim.lr={RATE}",
        f"trainer.batch_size={BATCH}",
        "trainer.max_minutes=null",
        f"trainer.max_samples={epochs * count}",
        f"trainer.eval_every={count // BATCH}",
        "trainer.preview_every=0",
        "trainer.ema_half_life_samples=null",
        f"run.dir={folder}/ours",
        console=quiet,
    )
    seconds = time.perf_counter() - began
    figures = genai.evaluate(run, f"sampling.importance_samples={samples}", step="best", console=quiet)
    return figures[f"nll_nats_bound_s{samples}"], seconds, open_dataset(open_trained(run.path).config, None)


def theirs(
    train: Tensor, held_out: Tensor, epochs: int, latents: int, samples: int, folder: str
) -> tuple[float, float]:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    model = VAE(VAEConfig(input_dim=tuple(train.shape[1:]), latent_dim=latents, reconstruction_loss="bce"))
    sets = [BaseDataset(x, torch.zeros(len(x))) for x in (train, held_out)]
    settings = BaseTrainerConfig(
        output_dir=f"{folder}/theirs", learning_rate=RATE, per_device_train_batch_size=BATCH, num_epochs=epochs
    )
    trainer = BaseTrainer(model, train_dataset=sets[0], eval_dataset=sets[1], training_config=settings)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    best = VAE.load_from_folder(f"{trainer.training_dir}/final_model").eval()
    with torch.no_grad():
        return -float(best.get_nll(held_out, n_samples=samples, batch_size=min(samples, 100))), seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    for name, value in (("epochs", 60), ("latents", 16), ("samples", 200)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bound, seconds, data = ours(given.path, given.epochs, given.latents, given.samples, folder)
        print(f"ours: {bound:.2f} nats (bound of {given.samples} samples), trained in {seconds:.0f} s")
        if importlib.util.find_spec("pythae") is None:
            print("not compared, pythae is not installed: pip install --no-deps pythae")
            return
        parts = [
            (binarised(split.fetch(torch.arange(len(split))).x, dynamic=False) + 1) / 2
            for split in (data.train, data.valid)
        ]
        bound, seconds = theirs(parts[0], parts[1], given.epochs, given.latents, given.samples, folder)
        print(f"pythae: {bound:.2f} nats (bound of {given.samples} samples), trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
