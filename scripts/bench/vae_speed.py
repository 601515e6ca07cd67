"""A training step of a VAE of fully connected layers: pythae's trainer against this one.

    pip install --no-deps pythae
    python scripts/bench/vae_speed.py [--device auto] [--rounds 5] [--batch 64]

Both train the same layers (784-512-latents-512-784, 16 latents, Bernoulli) by Adam in fp32 on pictures in memory, an
epoch of 4,000 a round, in turns; the figure is the median of the ratios. Ours also checks, logs and averages weights.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import sys
import tempfile

import torch
from torch import Tensor

from genai import device
from genai.config import compose_train
from genai.console import Console
from genai.data.source import open_data
from genai.factory import build_model
from genai.models.likelihood import binarised
from genai.run import RunFolder
from genai.trainer import Trainer
from own import now, parser

LIMIT_RATIO = 1.0
PICTURES, LATENTS = 4_000, 16


def own(folder: str, batch: int, where: str) -> tuple[Trainer, Tensor]:
    config = compose_train(
        "vae",
        ["experiment=vae/digits_nats", "data=fashion_mnist", f"model.latent_dim={LATENTS}", "net.width=512",
         "net.layers=1", "optim=adam", "optim.lr=1e-3", f"trainer.batch_size={batch}", f"run.dir={folder}/ours",
         "dtype=fp32"],
    )  # fmt: skip
    data = open_data(config.data, predicts="data")
    runtime = device.start(where, "fp32")
    torch.manual_seed(0)
    model = build_model(config, data.spec)
    runtime.place(model)
    run = RunFolder.create(config.run, model="vae")
    trainer = Trainer(model=model, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=run)
    x = data.train.fetch(torch.arange(PICTURES)).x
    return trainer, (binarised(x, dynamic=False) + 1) / 2


def main() -> None:
    given = parser(rounds=5, batch=64).parse_args()
    if importlib.util.find_spec("pythae") is None:
        print("not measured, pythae is not installed: pip install --no-deps pythae")
        return
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        trainer, x = own(folder, given.batch, given.device)
        model = VAE(VAEConfig(input_dim=tuple(x.shape[1:]), latent_dim=LATENTS, reconstruction_loss="bce"))
        settings = BaseTrainerConfig(
            output_dir=f"{folder}/theirs",
            learning_rate=1e-3,
            per_device_train_batch_size=given.batch,
            no_cuda=given.device == "cpu",
        )
        peer = BaseTrainer(model, train_dataset=BaseDataset(x, torch.zeros(len(x))), training_config=settings)
        peer.prepare_training()
        steps = -(-PICTURES // given.batch)
        times: list[tuple[float, float]] = []
        for number in range(given.rounds + 1):  # the first one warms up
            began = now()
            peer.train_step(number)
            between = now()
            for _ in range(steps):
                trainer.step()
            times.append(((between - began) / steps, (now() - between) / steps))
    theirs, ours = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratios = [their / our for their, our in times[1:]]
    print(
        f"VAE of fully connected layers, batch {given.batch}: pythae {1e3 * theirs:.2f} ms a step, ours "
        f"{1e3 * ours:.2f}, {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})  "
        f"(limit {LIMIT_RATIO})"
    )
    sys.exit(1 if statistics.median(ratios) < LIMIT_RATIO else 0)


if __name__ == "__main__":
    main()
