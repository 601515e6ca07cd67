"""Clips as uint8 (C, T, H, W): taken from arrays, their frames cropped and resized as pictures are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genai.data import images
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig


@dataclass(frozen=True)
class Frame:
    """What every clip of a set is brought to: `length` frames, each as `picture` says. Without `cuts` a longer clip is
    an error."""

    length: int
    picture: images.Frame
    cuts: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        channels, height, width = self.picture.shape
        return channels, self.length, height, width

    @property
    def num_bytes(self) -> int:
        return self.length * self.picture.num_bytes


def as_nthwc(array: np.ndarray, path: Path) -> np.ndarray:
    """The array itself where it holds clips (N, T, H, W, 1 or 3). Raises DataError for what is none."""
    if array.ndim != 5 or array.shape[4] not in (1, 3) or 0 in array.shape or array.dtype.kind not in "uib":
        what = f"clips of type {array.dtype} and shape {array.shape}"
        raise DataError(what, path=path, fix="save them as uint8 (N, frames, H, W, 1 or 3)")
    return array


def frame_of(clips: np.ndarray, config: DataConfig) -> tuple[Frame, list[str]]:
    """The frame for clips (N, T, H, W, C), and what the user should know about it. Raises ConfigError for settings of
    other data, and for clips that are shorter than data.frames."""
    _, length, height, width, channels = clips.shape
    picture, notes = images.frame_of([images.Look(width, height, grey=channels == 1)], config, "video")
    if config.frames is not None and config.frames > length:
        what = f"data.frames is {config.frames}, the clips have {length}"
        raise ConfigError(what, path=config.path, fix=f"type data.frames={length} or less, or give longer clips")
    return Frame(config.frames or length, picture, cuts=config.frames is not None), notes


def prepare(clips: np.ndarray, frame: Frame) -> np.ndarray:
    """(N, T, H, W, C) uint8 clips of an array -> (N, C, T, H, W) in the frame: their first frames, in order."""
    pictures = clips[:, : frame.length].reshape(-1, *clips.shape[2:])
    made = images.prepare(pictures, frame.picture).reshape(-1, frame.length, *frame.picture.shape)
    return np.ascontiguousarray(made.swapaxes(1, 2))
