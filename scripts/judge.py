"""Judges pictures or sounds made by a model with a classifier that has seen or heard real ones alone.

    genai sample RUN -n 2000 --seed 1 --format npz --out DIR
    python scripts/judge.py [data=NAME] [data.KEY=VALUE ...] DIR/samples.npz ...

Trains a small classifier on the training part of the labelled set (three passes, or 25 over few samples; about three
minutes for 60,000 pictures of 28 x 28 on two cores), keeps it in $GENAI_DATA (default ~/.cache/genai) and prints for
each file the Frechet distance of the samples to the held-out ones in its 128 features, the share of the samples whose
label it gives, and the share that nearly equal a training sample. First the same of real training samples, the best
that can be had. Sounds are judged by how loud each pitch is over time.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch import Tensor, nn

from genai.config import compose_train
from genai.contract import Spec
from genai.data.cache import data_folder
from genai.data.source import Dataset, Split, open_data

FEATURES, PASSES, BATCH, SEED = 128, 3, 256, 1
FEW, PASSES_OVER_FEW, BATCH_OF_FEW = 5000, 25, 32
WINDOW, BAND = 256, 3  # of a sound: values of a spectrum, frequencies that are taken together
NEARLY_EQUAL = 3.0 / 127.5  # root mean square difference in model units


def heard(sound: Tensor) -> Tensor:
    """(B, C, T) -> (B, 1, bands, frames): log-amplitudes."""
    window = torch.hann_window(WINDOW)
    spectra = torch.stft(sound.mean(1), WINDOW, WINDOW // 2, window=window, return_complex=True).abs()[:, 1:]
    return (F.avg_pool2d(spectra, (BAND, 1)) + 0.1).log()[:, None]


class Judge(nn.Module):
    """x (B, C, H, W) in [-1, 1] or (B, C, T) -> features (B, 128) and logits (B, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 64, FEATURES)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.out = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim == 3:
            x = heard(x)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.gelu(norm(conv(x)))
            if number in (0, 2):
                x = F.max_pool2d(x, 2)
        features = x.mean((2, 3))
        return features, self.out(features)


def untrained(spec: Spec) -> Judge:
    return Judge(1 if spec.modality == "audio" else spec.shape[0], spec.label_classes)


def train(data: Dataset) -> Judge:
    torch.manual_seed(SEED)
    judge = untrained(data.spec).to(memory_format=torch.channels_last)
    few = len(data.train) < FEW
    batch, passes = min(BATCH_OF_FEW if few else BATCH, len(data.train)), PASSES_OVER_FEW if few else PASSES
    steps = passes * (len(data.train) // batch)
    optimizer = torch.optim.AdamW(judge.parameters(), 3e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(passes):
        for index in torch.randperm(len(data.train)).split(batch)[: len(data.train) // batch]:
            found = data.train.fetch(index)
            loss = F.cross_entropy(judge(found.x)[1], found.cond["label"], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return judge.eval()


def kept(data: Dataset) -> Judge:
    """The judge of this very set, trained once."""
    cache = data_folder() / "judges"
    file = cache / f"{data.fingerprint[:16]}.safetensors"
    if file.exists():
        judge = untrained(data.spec)
        judge.load_state_dict(load_file(file))
        return judge.eval()
    print(f"training a judge on {len(data.train):,} samples ...", flush=True)
    judge = train(data)
    cache.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, whole)
    whole.replace(file)
    return judge


@torch.no_grad()
def look(judge: Judge, x: Tensor) -> tuple[Tensor, Tensor]:
    seen = [judge(part) for part in x.split(500)]
    return torch.cat([features for features, _ in seen]), torch.cat([logits for _, logits in seen]).argmax(1)


def frechet(one: Tensor, other: Tensor) -> float:
    """|mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)) of two sets of features (Heusel et al. 2017)."""
    a, b = one.double().numpy(), other.double().numpy()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    between = np.trace(sqrtm(first @ second).real)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * between)


def copied(x: Tensor, split: Split) -> float:
    """Share of samples that are nearly equal to one of the training part."""
    nearest = torch.full((len(x),), float("inf"))
    for index in torch.arange(len(split)).split(10_000):
        nearest = torch.minimum(nearest, torch.cdist(x.flatten(1), split.fetch(index).x.flatten(1)).min(1).values)
    return float((nearest / x[0].numel() ** 0.5 < NEARLY_EQUAL).float().mean())


def main() -> None:
    settings = [text for text in sys.argv[1:] if "=" in text]
    files = [text for text in sys.argv[1:] if "=" not in text]
    data = open_data(compose_train("vae", settings).data, predicts="data")
    if data.valid is None or not data.spec.label_classes:
        raise SystemExit("the set needs labels and held-out samples")
    judge = kept(data)
    held_out = data.valid.fetch(torch.arange(len(data.valid)))
    reference, given = look(judge, held_out.x)
    accuracy = (given == held_out.cond["label"]).float().mean()
    print(f"judge: {accuracy:.4f} of {len(data.valid):,} held-out labels right")
    real = data.train.fetch(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED))[:2000])
    print(f"{'frechet':>8} {'labels':>7} {'copied':>7}  samples")
    features, given = look(judge, real.x)
    print(f"{frechet(features, reference):8.3f} {(given == real.cond['label']).float().mean():7.4f} {'':7}  real ones")
    for file in files:
        arrays = np.load(file, allow_pickle=False)
        x = torch.from_numpy(arrays["samples"]).float()
        x = x.permute(0, 3, 1, 2) if data.spec.modality == "image" else x.view(len(x), *data.spec.shape)
        x = (x - data.spec.offset[0]) / data.spec.scale[0]
        features, given = look(judge, x)
        right = (given.numpy() == arrays["labels"]).mean() if "labels" in arrays else float("nan")
        print(f"{frechet(features, reference):8.3f} {right:7.4f} {copied(x, data.train):7.4f}  {file}", flush=True)


if __name__ == "__main__":
    main()
