"""One discriminator and one generator step of SNGAN-32: torch-mimicry's own training steps against this trainer.

    pip install --no-deps torch-mimicry
    python scripts/bench/gan_speed.py [--device auto] [--rounds 5] [--steps 8] [--width 32] [--batch 64]

Both train the same networks (torch-mimicry's SNGAN-32, spectral normalisation and all) by the hinge loss and Adam on
the same pictures in memory, emoji at 32 pixels, in the precision that dtype=auto chooses here and in fp32, the peer's.
The last figure is this project's own networks at the same width with their defaults. Rounds alternate in one process;
the figures are medians of the ratios.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genai import device, registry
from genai.config import compose_train
from genai.contract import Spec
from genai.data.source import open_data
from genai.nets.family import Family
from genai.registry import Component
from genai.schema import NetConfig
from own import now, own_trainer, parser, seconds_a_step

LIMIT_RATIO = 1.5
LATENT = 128


def peer() -> Any:
    """torch-mimicry's SNGAN-32, without what its package imports besides (TensorFlow among others)."""
    found = importlib.util.find_spec("torch_mimicry")
    if found is None:
        print("not measured, torch-mimicry is not installed: pip install --no-deps torch-mimicry")
        sys.exit()
    (place,) = found.submodule_search_locations or ()
    for name, folder in (("torch_mimicry", place), ("torch_mimicry.nets", f"{place}/nets")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [folder]
    return importlib.import_module("torch_mimicry.nets.sngan.sngan_32")


class Log:
    """What the peer's steps write their figures to; it reads them off as its own log does."""

    def add_metric(self, name: str, value: Any, **options: Any) -> None:
        float(value)


def peer_seconds(nets: Any, images: Tensor, steps: int, width: int, batch: int) -> float:
    """Seconds a step of the loop in the peer's trainer, one discriminator step to each generator step."""
    generator, discriminator = nets.SNGANGenerator32(ngf=width), nets.SNGANDiscriminator32(ndf=width)
    optimizers = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.0, 0.9)) for net in (discriminator, generator)]
    labels, log, start = torch.zeros(batch, dtype=torch.long), Log(), 0.0
    for step in range(-1, steps):
        if step == 0:  # the first one warms up
            start = now()
        real = (images[torch.randint(len(images), (batch,))], labels)
        discriminator.train_step(real_batch=real, netG=generator, optD=optimizers[0], log_data=log)
        generator.train_step(real_batch=real, netD=discriminator, optG=optimizers[1], log_data=log)
    return (now() - start) / steps


def families(nets: Any, width: int) -> Family:
    """The peer's networks as a family of ours."""

    class Encoder(nn.Module):
        def __init__(self, *, spec: Spec, config: NetConfig) -> None:
            super().__init__()
            self.net = nets.SNGANDiscriminator32(ndf=width)
            self.net.l5 = nn.Identity()  # the last layer is the discriminator's own
            self.features = width

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    class Decoder(nn.Module):
        def __init__(self, *, spec: Spec, inputs: int, config: NetConfig) -> None:
            super().__init__()
            self.net = nets.SNGANGenerator32(nz=inputs, ngf=width)

        def forward(self, vector: Tensor) -> Tensor:
            return self.net(vector)

    return Family(encoder=Encoder, decoder=Decoder)


def main() -> None:
    given = parser(rounds=5, steps=8, width=32, batch=64).parse_args()
    nets = peer()
    own = registry.components("net")["conv"]
    same = Component(f"{__name__}:SNGAN", own.help, own.schema)
    sys.modules[__name__].SNGAN = families(nets, given.width)  # type: ignore[attr-defined]
    # The peer's networks bring their own spectral normalisation; with the hinge loss ours have it by default.
    overrides = [
        "data=emoji", "data.size=32", "net=conv", f"net.width={given.width}", "model.loss=hinge",
        "model.conditional=false", "model.augment=[]", f"model.latent_dim={LATENT}",
        "optim.lr=2e-4", f"trainer.batch_size={given.batch}",
    ]  # fmt: skip
    data = open_data(compose_train("gan", overrides).data, predicts="data")
    chosen, plain = device.start(given.device), device.start(given.device, "fp32")
    images = data.train.fetch(torch.arange(len(data.train))).x.to(chosen.device)
    rows = [(f"same networks, {chosen.precision}", same, chosen), (f"own networks, {chosen.precision}", own, chosen)]
    if chosen.precision != "fp32":
        rows.insert(1, ("same networks, fp32", same, plain))
    times: list[list[float]] = [[] for _ in rows]
    theirs = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            with chosen.device:
                theirs.append(peer_seconds(nets, images, given.steps, given.width, given.batch))
            for (name, net, runtime), found in zip(rows, times, strict=True):
                registry.components("net")["conv"] = net
                settings = [*overrides, f"model.spectral_norm={'false' if net is same else 'auto'}"]
                trainer = own_trainer("gan", Path(folder) / f"{number} {name}", data, settings, runtime)
                found.append(seconds_a_step(trainer, given.steps))
    print(
        f"SNGAN-32, width {given.width}, batch {given.batch}, a discriminator and a generator step: torch-mimicry "
        f"{1e3 * statistics.median(theirs):.0f} ms"
    )
    medians = []
    for (name, *_), found in zip(rows, times, strict=True):
        ratios = [their / our for their, our in zip(theirs, found, strict=True)]
        medians.append(statistics.median(ratios))
        print(
            f"{name}: {1e3 * statistics.median(found):.0f} ms, {medians[-1]:.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})" + (f"  (limit {LIMIT_RATIO})" if len(medians) == 1 else "")
        )
    sys.exit(1 if medians[0] < LIMIT_RATIO else 0)


if __name__ == "__main__":
    main()
