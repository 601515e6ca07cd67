"""A frozen first stage between the data and a model: pixels on one side, latents on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genai.contract import Batch, FirstStage, Spec, SpreadsLatents
from genai.data.images import size_text
from genai.data.source import Split, without_prompts
from genai.errors import ConfigError

_CHUNK = 256  # samples encoded at a time


@dataclass(frozen=True)
class Codec:
    """`stage` encodes what `spec` says; `sha256` names its weights."""

    stage: FirstStage
    spec: Spec
    sha256: str
    device: torch.device  # where it is
    dtype: torch.dtype  # in what it computes

    def encoded(self, data: Spec) -> Spec:
        """What a model sees of data as `data` says. Raises ConfigError for a first stage made for another shape."""
        own = self.spec
        if data.form != own.form:
            what = f"data.codec was trained on {own.modality} {own.shape}, the data are {data.modality} {data.shape}"
            fix, alike = "name other data, or another run", data.modality == own.modality
            if alike and own.modality == "image" and data.shape[0] == own.shape[0]:
                fix = f"type data.size={size_text(*own.shape[1:])}"
            if alike and own.modality == "video" and data.shape[0] == own.shape[0] and data.shape[1] >= own.shape[1]:
                fix = f"type data.frames={own.shape[1]} data.size={size_text(*own.shape[2:])}"
            if alike and own.modality == "audio" and data.shape[0] == own.shape[0]:
                fix = f"type data.sample_rate={own.sample_rate} data.seconds={own.shape[1] / own.sample_rate:.9g}"
            raise ConfigError(what, fix=fix)
        latent = self.stage.latent_spec()
        return replace(latent, cond=data.cond, num_samples=data.num_samples, first_stage=self.sha256)

    def decoded(self, latent: Spec) -> Spec:
        return replace(self.spec, cond=latent.cond)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents, and their deviations where they have some."""
        x = x.to(self.device, self.dtype)
        return self.stage.to_latents(x) if isinstance(self.stage, SpreadsLatents) else (self.stage.to_latent(x), None)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        return self.stage.from_latent(latent.to(self.device, self.dtype if latent.is_floating_point() else None))


class LatentSplit:
    """A split seen through a codec. A resident split is encoded once, on first use; a streaming one as it is read."""

    def __init__(self, split: Split, codec: Codec, latents: tuple[Tensor, Tensor | None] | None = None) -> None:
        self.split, self.codec, self.streams, self.file_of = split, codec, split.streams, split.file_of
        self._latents = latents

    def __len__(self) -> int:
        return len(self.split)

    def to(self, device: torch.device) -> LatentSplit:
        split = self.split.to(device)
        if self._latents is None and not self.streams:
            chunks = torch.arange(len(split), device=device).split(_CHUNK)
            means, spreads = zip(*(self.codec.encode(split.fetch(chunk).x) for chunk in chunks), strict=True)
            self._latents = torch.cat(means), None if spreads[0] is None else torch.cat(spreads)
        return LatentSplit(split, self.codec, self._latents)

    def without_prompts(self) -> LatentSplit:
        return LatentSplit(without_prompts(self.split), self.codec, self._latents)

    def fetch(self, index: Tensor) -> Batch:
        batch = self.split.fetch(index)
        if self._latents is None:
            return self.encoded(batch)
        latents, spread = self._latents
        index = index.to(latents.device)
        return batch.replace(x=latents[index], spread=None if spread is None else spread[index])

    def encoded(self, batch: Batch) -> Batch:
        latents, spread = self.codec.encode(batch.x)
        return batch.replace(x=latents, spread=spread)
