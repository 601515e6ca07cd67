"""Texts as linear machines see them: the n-grams that training met most, known by their hashes, and weighed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genai.contract import Batch, Spec
from genai.data.tokens import read_tokenizer
from genai.models import DiscriminativeConfig
from genai.nets.ngrams import hashed, mixed
from genai.nets.sparse import Rows

_AT_ONCE = 4096  # texts
_NONE = np.iinfo(np.int64).max  # in place of a hash

Found = tuple[np.ndarray, np.ndarray]  # (M,) int64 which text, and (M,) the hash or the number of each n-gram in it


class HashedTexts(nn.Module):
    """Ids (B[, 2], T) -> rows of `features` n-grams, those that most training texts hold; no other is seen. Of "tfidf"
    (Sparck Jones 1972, as scikit-learn has it) each counts (1 + ln n) (1 + ln((1 + N) / (1 + d))) where it is met n
    times, and in d of N training texts; a row has a length of 1. Of "counts" 1 + ln n.

    The n-grams of a second text are others than those of the first; those that both hold are a third kind.
    """

    idf: Tensor
    known: Tensor

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig) -> None:
        super().__init__()
        self.features, self.config = config.most_ngrams, config
        self.tokenizer = read_tokenizer(spec.tokenizer)
        self.register_buffer("idf", torch.ones(self.features))
        self.register_buffer("known", torch.full((self.features,), _NONE))  # hashes, which rise

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int) -> tuple[Rows, Tensor]:
        """Finds the n-grams of the `count` training texts, and what they weigh; these texts, and their targets."""
        found, targets = [], []
        for part in torch.arange(count).split(_AT_ONCE):
            batch = fetch(part)
            rows, hashes = self._found(batch.cond["input"])
            different, numbers = np.unique(hashes, return_inverse=True)
            rows, numbers, times = _counted(rows, numbers, len(different))  # at once: all of them fill the memory
            found.append((rows + int(part[0]), different[numbers], times))
            targets.append(batch.x)
        rows, hashes, times = (np.concatenate(parts) for parts in zip(*found, strict=True))
        different, numbers = np.unique(hashes, return_inverse=True)
        met = np.bincount(numbers, minlength=len(different))
        chosen = np.sort(np.argsort(-met, kind="stable")[: self.features])
        self.known[: len(chosen)] = torch.from_numpy(different[chosen])
        if self.config.weighting == "tfidf":
            self.idf[: len(chosen)] = torch.from_numpy(1 + np.log((1 + count) / (1 + met[chosen]))).to(self.idf)
        place = np.full(len(different), -1)
        place[chosen] = np.arange(len(chosen))
        seen = place[numbers] >= 0
        return self._weighed(rows[seen], place[numbers[seen]], times[seen], count), torch.cat(targets)

    def forward(self, x: Tensor) -> Rows:
        rows, hashes = self._found(x)
        known = self.known.cpu().numpy()
        numbers = np.searchsorted(known, hashes).clip(max=len(known) - 1)
        same = known[numbers] == hashes
        return self._weighed(*_counted(rows[same], numbers[same], self.features), len(x))

    def _found(self, x: Tensor) -> Found:
        """The n-grams of texts, in which a second one has others."""
        fields = x[:, None] if x.ndim == 2 else x
        parts = [self._hashed(fields[:, i]) for i in range(fields.shape[1])]
        if len(parts) == 2:
            parts.append(_in_both(*parts))
        kinds = [(rows, mixed(hashes + np.uint64(i)) if i else hashes) for i, (rows, hashes) in enumerate(parts)]
        rows, hashes = _joined(kinds)
        return rows, hashes.view(np.int64)

    def _hashed(self, ids: Tensor) -> Found:
        rows, end = ids.cpu().numpy(), self.tokenizer.end
        texts = [self.tokenizer.decode(row[row != end]) for row in rows]
        return hashed(texts, self.config.ngrams, self.config.characters)

    def _weighed(self, rows: np.ndarray, numbers: np.ndarray, times: np.ndarray, count: int) -> Rows:
        device = self.idf.device
        starts = torch.from_numpy(np.searchsorted(rows, np.arange(count + 1))).to(device)
        columns = torch.from_numpy(numbers).to(device)
        values = torch.from_numpy(1 + np.log(times)).to(self.idf)
        if self.config.weighting == "tfidf":
            values = values * self.idf[columns]
            row = torch.arange(count, device=device).repeat_interleave(starts.diff())
            squares = values.new_zeros(count).index_add_(0, row, values.square())
            values = values / squares.sqrt()[row]
        return Rows(starts, columns, values, self.features)


def _counted(rows: np.ndarray, numbers: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each n-gram of each text, numbers below `size`, and how often it is met there; in order."""
    places, times = np.unique(rows * size + numbers, return_counts=True)
    return places // max(1, size), places % max(1, size), times


def _joined(parts: Sequence[Found]) -> Found:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([hashes for _, hashes in parts])


def _in_both(one: Found, other: Found) -> Found:
    """What both texts of a row hold, once."""
    keys = [hashes ^ mixed(rows.astype(np.uint64)) for rows, hashes in (one, other)]
    _, first, _ = np.intersect1d(*keys, return_indices=True)
    return one[0][first], one[1][first]
