"""What the tests of pictures share: pictures with a number in them, in every container, and a look at what was read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from genai.contract import Spec
from genai.data.source import Dataset, open_data
from genai.errors import GenaiError
from genai.schema import DataConfig, PathText


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(name="path", path=PathText(str(path)), **settings)


def opened(path: Path | str, **settings: Any) -> Dataset:
    """All of it as the training part, unless told otherwise."""
    return open_data(config(path, **{"valid_fraction": 0.0, **settings}), predicts="data")


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """An encoded grey picture in which every pixel is `value`."""
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pixels(split: Any) -> np.ndarray:
    """All pictures of a split as whole numbers (N, C, H, W)."""
    return np.rint(split.fetch(torch.arange(len(split))).x.numpy() * 127.5 + 127.5).astype(int)


def values(split: Any) -> list[int]:
    """What `png` was given, of all pictures."""
    return pixels(split)[:, 0, 0, 0].tolist()


def labels(split: Any) -> list[int]:
    return split.fetch(torch.arange(len(split))).cond["label"].tolist()


def one_line(error: GenaiError) -> str:
    (line,) = error.lines()
    return line


class Halves:
    """A first stage that keeps the left half of pictures of 8 x 8 with so many channels."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def to_latent(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :4]

    def from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.cat([latent, latent], dim=-1)

    def latent_spec(self) -> Spec:
        return Spec(kind="real", shape=(self.channels, 8, 4), modality="latent")
