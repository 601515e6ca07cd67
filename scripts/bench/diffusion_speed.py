"""A training step of a U-Net, and drawing from it: diffusers and denoising-diffusion-pytorch against this trainer.

    pip install diffusers requests
    pip install --no-deps denoising-diffusion-pytorch ema-pytorch accelerate einops
    python scripts/bench/diffusion_speed.py [--device auto] [--rounds 5] [--steps 3] [--batch 64]

On grey pictures of 32 pixels in memory, with Adam or AdamW, a moving average and clipped gradients each. diffusers'
UNet2DModel of widths 32, 64, 128 is trained by the loop of its tutorial, and the very same network by this trainer;
then denoising-diffusion-pytorch's Unet of dim 32 against this project's own U-Net with no fewer parameters. Drawing 16
pictures: DDIM with 50 evaluations there, UniPC with 20 here. In the precision that dtype=auto chooses here and in fp32,
the peers'. Rounds alternate in one process; the figures are medians of the ratios. Last, how fast pictures are drawn by
how many at once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genai import device, registry
from genai.config import compose_train
from genai.contract import Request, Spec
from genai.data.source import open_data
from genai.nets.family import Family
from genai.registry import Component
from genai.schema import NetConfig, SamplingConfig
from genai.trainer import Trainer
from own import now, own_trainer, parser, seconds_a_step

LIMITS = {"the same network": 0.95, "own network": 1.3}
WIDTHS, DRAWN, BATCHES = (32, 64, 128), 16, (1, 4, 16, 64)
OWN_WIDTH = 40  # with which there are no fewer parameters than in denoising-diffusion-pytorch's 2.6 million


def diffusers() -> Any:
    try:
        import diffusers
        from diffusers.training_utils import EMAModel
    except Exception:
        print("not measured, diffusers is not installed: pip install diffusers requests")
        sys.exit()
    return diffusers, EMAModel


def lucidrains() -> Any:
    """denoising-diffusion-pytorch, without torchvision, which it reads pictures with."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
    sys.modules.setdefault("pytorch_fid", types.ModuleType("pytorch_fid"))
    sys.modules.setdefault("pytorch_fid.fid_score", types.ModuleType("pytorch_fid.fid_score"))
    sys.modules.setdefault("pytorch_fid.inception", types.ModuleType("pytorch_fid.inception"))
    sys.modules["pytorch_fid.fid_score"].calculate_frechet_distance = None
    sys.modules["pytorch_fid.inception"].InceptionV3 = type("InceptionV3", (), {"BLOCK_INDEX_BY_DIM": {}})
    try:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA
    except ImportError as error:
        print(f"not measured, denoising-diffusion-pytorch is not installed ({error}): see the head of this script")
        sys.exit()
    return Unet, GaussianDiffusion, EMA


def unet_of_diffusers(library: Any) -> Any:
    return library.UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def seconds_of_diffusers(library: Any, average: Any, images: Tensor, steps: int, batch: int) -> tuple[float, float]:
    """A training step, and drawing."""
    net = unet_of_diffusers(library)
    schedule = library.DDPMScheduler(num_train_timesteps=1000)
    optimizer, ema = torch.optim.AdamW(net.parameters(), 1e-3), average(net.parameters())
    start = 0.0
    for step in range(-1, steps):
        if step == 0:  # the first one warms up
            start = now()
        x = images[torch.randint(len(images), (batch,))]
        noise, t = torch.randn_like(x), torch.randint(1000, (batch,))
        loss = nn.functional.mse_loss(net(schedule.add_noise(x, noise, t), t).sample, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        loss.item()
    trained = (now() - start) / steps
    pipeline = library.DDIMPipeline(net.eval(), library.DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    start = now()
    pipeline(batch_size=DRAWN, num_inference_steps=50, output_type="np")
    return trained, now() - start


def seconds_of_lucidrains(library: Any, images: Tensor, steps: int, batch: int) -> tuple[float, float]:
    unet, process, average = library
    diffusion = process(unet(dim=32, dim_mults=(1, 2, 4), channels=1), image_size=32, sampling_timesteps=50)
    optimizer, ema = torch.optim.Adam(diffusion.parameters(), 1e-3), average(diffusion)
    start = 0.0
    for step in range(-1, steps):
        if step == 0:
            start = now()
        x = images[torch.randint(len(images), (batch,))]
        loss = diffusion((x + 1) / 2)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        loss.item()
    trained = (now() - start) / steps
    start = now()
    diffusion.sample(batch_size=DRAWN)
    return trained, now() - start


def family_of_diffusers(library: Any) -> Family:
    """Its network as a net of ours: what it is told becomes the one number that it takes for the time."""

    class Net(nn.Module):
        def __init__(self, *, spec: Spec, config: NetConfig, context: int = 0) -> None:
            super().__init__()
            self.features, self.net = 1, unet_of_diffusers(library)

        def forward(self, x: Tensor, told: Tensor, context: Any = None, mask: Any = None) -> Tensor:
            return self.net(x, told[:, 0]).sample

    return Family(denoiser=Net)


def seconds_to_draw(trainer: Trainer, count: int) -> float:
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    request = Request(
        count=count, cond={}, generators=generators, device=trainer.runtime.device, sampling=SamplingConfig()
    )
    start = now()
    with torch.no_grad(), trainer.runtime.autocast():
        trainer.averaged.draw(request)
    return now() - start


def main() -> None:
    given = parser(rounds=5, steps=3, batch=64).parse_args()
    library, average = diffusers()
    other = lucidrains()
    own = registry.components("net")["unet"]
    same = Component(f"{__name__}:NET", own.help, own.schema)
    sys.modules[__name__].NET = family_of_diffusers(library)  # type: ignore[attr-defined]
    overrides = [
        "data=fashion_mnist", "data.size=32", "model.conditions=[]", "net=unet",
        "net.multipliers=[1,2,4]", f"trainer.batch_size={given.batch}",
    ]  # fmt: skip
    data = open_data(compose_train("diffusion", overrides).data, predicts="data")
    chosen, plain = device.start(given.device), device.start(given.device, "fp32")
    images = data.train.fetch(torch.arange(2000)).x.to(chosen.device)
    precisions = [chosen] if chosen.precision == "fp32" else [chosen, plain]

    def by_diffusers() -> tuple[float, float]:
        return seconds_of_diffusers(library, average, images, given.steps, given.batch)

    def by_lucidrains() -> tuple[float, float]:
        return seconds_of_lucidrains(other, images, given.steps, given.batch)

    peers: list[tuple[str, str, Component, Callable[[], tuple[float, float]]]] = [
        ("diffusers", "the same network", same, by_diffusers),
        ("denoising-diffusion-pytorch", "own network", own, by_lucidrains),
    ]
    missed = False
    for peer, name, net, measured in peers:
        registry.components("net")["unet"] = net
        width = [f"net.width={32 if net is same else OWN_WIDTH}"]
        times: list[list[tuple[float, float]]] = [[] for _ in precisions]
        theirs, num_parameters, fastest = [], 0, None
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.rounds):
                with chosen.device:
                    theirs.append(measured())
                for runtime, found in zip(precisions, times, strict=True):
                    trainer = own_trainer(
                        "diffusion", Path(folder) / f"{number} {runtime.precision}", data, [*overrides, *width], runtime
                    )
                    num_parameters = sum(p.numel() for p in trainer.model.parameters())
                    found.append((seconds_a_step(trainer, given.steps), seconds_to_draw(trainer, DRAWN)))
                    fastest = trainer if runtime is chosen else fastest
        trained, drawn = (statistics.median(row[i] for row in theirs) for i in range(2))
        print(f"{peer}: a step of {given.batch} {trained:.2f} s, {DRAWN} pictures by DDIM-50 {drawn:.1f} s")
        for runtime, found in zip(precisions, times, strict=True):
            ratios = [[their[i] / our[i] for their, our in zip(theirs, found, strict=True)] for i in range(2)]
            step, draw = (statistics.median(row) for row in ratios)
            ours = [statistics.median(row[i] for row in found) for i in range(2)]
            print(
                f"  {name}, {runtime.precision}, {num_parameters:,} parameters: "
                f"{ours[0]:.2f} s, {step:.2f} times as fast ({min(ratios[0]):.2f} to {max(ratios[0]):.2f}; limit "
                f"{LIMITS[name]}); UniPC-20 {ours[1]:.1f} s, {draw:.1f} times"
            )
            missed |= step < LIMITS[name]
        if net is own:
            speeds = [f"{count / seconds_to_draw(fastest, count):.1f}" for count in BATCHES]
            print(f"  pictures a second in batches of {', '.join(map(str, BATCHES))}: {', '.join(speeds)}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
