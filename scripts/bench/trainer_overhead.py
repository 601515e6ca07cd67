"""What the trainer costs a step over a bare loop that seeds, clips, checks and keeps an EMA by hand.

    python scripts/bench/trainer_overhead.py [--device auto] [--rounds 7] [--steps 1000]

The work is a small multilayer perceptron on digits held in memory (about 1 ms a step on two cores), so that a
difference of 0.05 ms shows. The trainer also logs every 10 steps and saves at the end. Both run in one process,
interleaved; the figure is the median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai import device
from genai.config import compose_train
from genai.console import Console
from genai.contract import Batch, Model, Request, Terms, Update
from genai.data.source import open_data
from genai.device import Runtime
from genai.run import RunFolder
from genai.trainer import Trainer
from own import now, parser

BATCH, WIDTH, CLIP, HALF_LIFE = 128, 160, 1.0, 10_000
LIMIT_MILLISECONDS = 0.15


class Autoencoder(Model):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(size, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, size)
        )

    def updates(self) -> Sequence[Update]:
        return (Update(trains="net", loss=self.loss),)

    def loss(self, batch: Batch, samples: int) -> Terms:
        x = batch.x.flatten(1)
        return {"loss": F.mse_loss(self.net(x + 0.1 * torch.randn_like(x)), x)}

    def draw(self, request: Request) -> Tensor:
        raise AssertionError("nothing is drawn here")

    def evaluate(self, batch: Batch) -> Terms:
        return self.loss(batch, 0)


def bare_loop(images: Tensor, steps: int) -> float:
    """Seconds a step of the loop that a user would write."""
    torch.manual_seed(0)
    model = Autoencoder(images[0].numel())
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order = torch.randperm(len(images))
    begin = now()
    for step in range(steps):
        torch.default_generator.manual_seed(step)
        start = step * BATCH % (len(images) - BATCH)
        batch = Batch(images[order[start : start + BATCH]].float() / 127.5 - 1)
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(batch, 0)["loss"]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise SystemExit("not finite")
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.data for p in model.parameters()], 1 - 0.5 ** (BATCH / HALF_LIFE))
    return (now() - begin) / steps


def trainer_loop(folder: Path, steps: int, runtime: Runtime) -> float:
    config = compose_train(
        "gan",
        [
            "data=digits", "optim=adam", "optim.schedule=constant", f"trainer.max_steps={steps}", f"run.dir={folder}",
            f"trainer.batch_size={BATCH}", f"trainer.clip_norm={CLIP}", f"trainer.ema_half_life_samples={HALF_LIFE}",
            "trainer.log_every=10", "trainer.eval_every=0", "trainer.save_every=0",
        ],
    )  # fmt: skip
    torch.manual_seed(0)
    data = open_data(config.data, predicts="data")
    model = Autoencoder(torch.Size(data.spec.shape).numel())
    runtime.place(model)
    run = RunFolder.create(config.run, model=config.model.name)
    trainer = Trainer(model=model, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=run)
    begin = now()
    trainer.fit()
    seconds = (now() - begin) / steps
    run.close()
    return seconds


def main() -> None:
    arguments = parser(rounds=7, steps=1000).parse_args()
    runtime = device.start(arguments.device)
    data = open_data(compose_train("gan", ["data=digits"]).data, predicts="data")
    index = torch.arange(len(data.train))
    images = ((data.train.fetch(index).x + 1) * 127.5).round().to(torch.uint8)
    differences, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(arguments.rounds):
            with runtime.device:
                bare.append(bare_loop(images.to(runtime.device), arguments.steps))
            ours = trainer_loop(Path(folder) / str(round_number), arguments.steps, runtime)
            differences.append(ours - bare[-1])
    added = 1e3 * statistics.median(differences)
    print(
        f"bare loop {1e3 * statistics.median(bare):.3f} ms a step; the trainer, which also logs and saves, adds "
        f"{added:+.3f} ms  (limit {LIMIT_MILLISECONDS:+} ms)"
    )
    sys.exit(1 if added > LIMIT_MILLISECONDS else 0)


if __name__ == "__main__":
    main()
