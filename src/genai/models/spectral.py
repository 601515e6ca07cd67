"""How far sounds are from each other to an ear, which hears how loud each pitch is and hardly its phase."""

from __future__ import annotations

import torch
from torch import Tensor

_WINDOWS = (64, 128, 256, 512, 1024)  # values: short ones for when, long ones for which pitch
_FLOOR = 0.03  # amplitude below which differences fade, in deviations of the data


def log_spectral_distance(x: Tensor, y: Tensor) -> Tensor:
    """(B,): the mean absolute difference of the logarithms of two sounds' spectra (B, C, T), over windows of several
    lengths (Yamamoto et al. 2020, Parallel WaveGAN, equation 4)."""
    windows = [size for size in _WINDOWS if size <= x.shape[-1]] or _WINDOWS[:1]
    total = torch.zeros((), device=x.device)
    for size in windows:
        first, second = (_log_spectrum(sound, size) for sound in (x, y))
        total = total + (first - second).abs().flatten(1).mean(1)
    return total / len(windows)


def _log_spectrum(x: Tensor, size: int) -> Tensor:
    """(B, C, T) -> (B, C * frequencies, frames)."""
    window = torch.hann_window(size, device=x.device, dtype=x.dtype)
    # Of noise of deviation 1 the mean square is 1 with this.
    scale = window.square().sum().rsqrt()
    sounds, half = x.flatten(0, 1), size // 2
    sounds = torch.nn.functional.pad(sounds, (0, max(0, half + 1 - sounds.shape[-1])))
    # Mirrored at its ends, as torch.stft does, whose own way has no deterministic gradient on CUDA.
    sounds = torch.cat([sounds[:, 1 : half + 1].flip(1), sounds, sounds[:, -half - 1 : -1].flip(1)], dim=1)
    found = torch.stft(sounds, size, size // 4, window=window, center=False, return_complex=True)
    return (found.abs() * scale + _FLOOR).log().unflatten(0, x.shape[:2]).flatten(1, 2)
