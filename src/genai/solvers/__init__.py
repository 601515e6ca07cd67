"""From noise to data: pure functions of a denoiser."""
