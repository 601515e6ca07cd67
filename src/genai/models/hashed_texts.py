"""Texts as linear machines see them: hashed n-grams, weighed by how rare each is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from genai.contract import Batch, Spec
from genai.data.tokens import read_tokenizer
from genai.models import DiscriminativeConfig
from genai.nets.ngrams import hashed, mixed
from genai.nets.sparse import Rows

_AT_ONCE = 4096  # texts


class HashedTexts(nn.Module):
    """Ids (B[, fields], T) -> rows of `features` buckets of n-grams. Of "tfidf" (Sparck Jones 1972, as scikit-learn has
    it) each counts (1 + ln n) (1 + ln((1 + N) / (1 + d))) where it is met n times, and in d of N training texts; a row
    has a length of 1. Of "counts" 1 + ln n.

    The n-grams of a second field are others than those of the first; those that both hold are a third kind.
    """

    idf: Tensor

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig) -> None:
        super().__init__()
        self.features, self.config = config.buckets, config
        self.tokenizer = read_tokenizer(spec.tokenizer)
        self.register_buffer("idf", torch.ones(config.buckets))

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int) -> tuple[Rows, Tensor]:
        """Finds what n-grams weigh in the `count` training texts; these, and their targets."""
        parts, targets = [], []
        for part in torch.arange(count).split(_AT_ONCE):
            batch = fetch(part)
            parts.append(self._counted(batch.cond["input"]))
            targets.append(batch.x)
        sizes = np.concatenate([np.diff(starts) for starts, _, _ in parts])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        columns, counts = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        if self.config.weighting == "tfidf":
            met = np.bincount(columns, minlength=self.features)
            self.idf.copy_(torch.from_numpy(1 + np.log((1 + count) / (1 + met))))
        return self._weighed(starts, columns, counts), torch.cat(targets)

    def forward(self, x: Tensor) -> Rows:
        return self._weighed(*self._counted(x))

    def _weighed(self, starts: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> Rows:
        device = self.idf.device
        places, bounds = torch.from_numpy(columns).to(device), torch.from_numpy(starts).to(device)
        values = torch.from_numpy(1 + np.log(counts)).to(self.idf)
        if self.config.weighting == "tfidf":
            values = values * self.idf[places]
            row = torch.arange(len(starts) - 1, device=device).repeat_interleave(bounds.diff())
            squares = values.new_zeros(len(starts) - 1).index_add_(0, row, values.square())
            values = values / squares.sqrt()[row]
        return Rows(bounds, places, values, self.features)

    def _counted(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each text's begin (B + 1,), and of each n-gram that it holds the bucket, and how often."""
        fields = x[:, None] if x.ndim == 2 else x
        found = [self._found(fields[:, i]) for i in range(fields.shape[1])]
        if len(found) == 2:
            found.append(_in_both(*found))
        rows = np.concatenate([rows for rows, _ in found])
        buckets = np.concatenate([_bucket(hashes, i, self.features) for i, (_, hashes) in enumerate(found)])
        places, counts = np.unique(rows * self.features + buckets, return_counts=True)
        starts = np.searchsorted(places, np.arange(len(x) + 1) * self.features)
        return starts, places % self.features, counts

    def _found(self, ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
        rows, end = ids.cpu().numpy(), self.tokenizer.end
        texts = [self.tokenizer.decode(row[row != end]) for row in rows]
        return hashed(texts, self.config.ngrams, self.config.characters)


def _bucket(hashes: np.ndarray, field: int, buckets: int) -> np.ndarray:
    hashes = mixed(hashes + np.uint64(field)) if field else hashes
    found: np.ndarray = (hashes % np.uint64(buckets)).astype(np.int64)
    return found


def _in_both(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What both texts of a row hold, once."""
    keys = [hashes ^ mixed(rows.astype(np.uint64)) for rows, hashes in (one, other)]
    _, first, _ = np.intersect1d(*keys, return_indices=True)
    return one[0][first], one[1][first]
