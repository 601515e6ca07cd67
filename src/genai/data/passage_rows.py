"""Texts of many lengths as ids, for a model that reads them whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch
from genai.data.tokens import Tokenizer

_STEP = 8  # ids, of the length of a batch: there are few shapes


class PassageRows:
    """Samples of `fields` texts each. A batch is as long as its longest text, `longest` at most; behind the others
    stands the `mark`."""

    streams = False

    def __init__(
        self,
        ids: Tensor,  # (M,) of one text after the other
        ends: Tensor,  # (N, fields) where each ends
        targets: Tensor,  # (N,)
        *,
        longest: int,
        mark: int,
        text_of: Callable[[int], str] | None = None,
    ) -> None:
        self.ids, self.ends, self.targets, self.longest, self.mark = ids, ends, targets, longest, mark
        self.file_of = text_of
        flat = torch.cat([ends.new_zeros(1), ends.flatten()])
        self.starts = flat[:-1].view_as(ends)
        self._moved: dict[torch.device, PassageRows] = {ids.device: self}

    def __len__(self) -> int:
        return len(self.ends)

    def fetch(self, index: Tensor) -> Batch:
        index = index.to(self.ids.device)
        starts, ends = self.starts[index].flatten(), self.ends[index].flatten()
        counts = ends - starts
        # Waits for an accelerator, which is less than it would take to compute what fills up the longest of all.
        length = max(1, int(counts.max())) if len(index) else 1
        length = min(self.longest, -(-length // _STEP) * _STEP)
        begins = length * torch.arange(len(counts), device=index.device)
        ahead = torch.arange(int(counts.sum()), device=index.device)
        ahead -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        x = torch.full((len(counts) * length,), self.mark, device=index.device)
        x[begins.repeat_interleave(counts) + ahead] = self.ids[starts.repeat_interleave(counts) + ahead].long()
        x = x.view(len(index), -1, length)
        x = x if x.shape[1] > 1 else x.squeeze(1)
        return Batch(x=self.targets[index], cond={"input": x}, index=index)

    def to(self, device: torch.device) -> PassageRows:
        if device not in self._moved:
            parts = (part.to(device) for part in (self.ids, self.ends, self.targets))
            self._moved[device] = PassageRows(*parts, longest=self.longest, mark=self.mark, text_of=self.file_of)
        return self._moved[device]


def encoded(
    texts: Sequence[Sequence[str]], tokenizer: Tokenizer, *, fields: int, longest: int
) -> tuple[Tensor, Tensor, int]:
    """The ids (M,) of the texts of N samples, `longest` of each at most, where each text ends (N, fields), and how many
    are longer."""
    parts = [tokenizer.encode(text) for row in texts for text in row]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    dtype = np.int16 if tokenizer.vocab <= 1 << 15 else np.int32
    ids = np.concatenate([np.zeros(0, np.int32), *(part[:longest] for part in parts)]).astype(dtype)
    ids = ids if len(ids) else np.full(1, tokenizer.end, dtype)
    ends = np.minimum(lengths, longest).cumsum().reshape(len(texts), fields)
    return torch.from_numpy(ids), torch.from_numpy(ends), int((lengths > longest).sum())
