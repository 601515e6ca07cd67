"""Rows of a table as models see them: numbers, then groups of which one number is 1.

An element is a number or a group; a row (D,) has E of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genai.columns import groups, layout
from genai.contract import Spec


class Rows(nn.Module):
    """How a row of `spec` is laid out."""

    places: Tensor
    padding: Tensor
    back: Tensor
    element: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.sizes = groups(spec.columns)
        self.numbers = spec.shape[0] - sum(self.sizes)
        self.elements = self.numbers + len(self.sizes)
        longest = max(self.sizes, default=0)
        places = torch.zeros(len(self.sizes), longest, dtype=torch.int64)
        padding = torch.ones(len(self.sizes), longest, dtype=torch.bool)
        start = 0
        for i, size in enumerate(self.sizes):
            places[i, :size] = torch.arange(start, start + size)
            padding[i, :size] = False
            start += size
        element = [*range(self.numbers), *(self.numbers + i for i, size in enumerate(self.sizes) for _ in range(size))]
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("padding", padding, persistent=False)
        self.register_buffer("back", (~padding).flatten().nonzero()[:, 0], persistent=False)
        self.register_buffer("element", torch.tensor(element, dtype=torch.int64), persistent=False)
        # Of categories that may be missing: the place of the 1 of those that are, among the numbers of groups.
        self.missing_at = [
            place.group.stop - 1 - self.numbers
            for place in layout(spec.columns)
            if place.number is None and place.group is not None and spec.columns[place.column].missing is not None
        ]
        # Of numbers that may be missing: their place, and that of the 1 of those that are there.
        found = [place for place in layout(spec.columns) if place.number is not None and place.group is not None]
        self.may_lack = [place.number for place in found]
        self.there_at = [place.group.start for place in found if place.group is not None]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, numbers), (B, rest)."""
        return x[:, : self.numbers], x[:, self.numbers :]

    def log_softmax(self, logits: Tensor) -> Tensor:
        """(B, rest) -> the same, within each group."""
        if not self.sizes:
            return logits
        padded = logits[:, self.places].masked_fill(self.padding, -math.inf)
        return padded.log_softmax(2).flatten(1).index_select(1, self.back)

    def hardened(self, values: Tensor) -> Tensor:
        """(B, rest) -> 1 at the greatest of each group, 0 elsewhere."""
        if not self.sizes:
            return values
        padded = values[:, self.places].masked_fill(self.padding, -math.inf)
        hard = torch.zeros_like(padded).scatter_(2, padded.argmax(2, keepdim=True), 1.0)
        return hard.flatten(1).index_select(1, self.back)

    def there(self, x: Tensor) -> Tensor:
        """(B, numbers), 1 where a number is there and 0 where it is missing."""
        there = torch.ones_like(x[:, : self.numbers])
        if self.may_lack:
            there[:, self.may_lack] = x[:, self.there_at]
        return there

    def known(self, missing: Tensor) -> Tensor:
        """(B, D) booleans, the same for all numbers of a group -> (B, E), 1 for elements that are not missing."""
        firsts = [int((self.element == i).nonzero()[0]) for i in range(self.elements)]
        return (~missing[:, firsts]).to(torch.get_default_dtype())

    def spread(self, elements: Tensor) -> Tensor:
        """(B, E) -> (B, D): of each element for all its numbers."""
        return elements.index_select(1, self.element)

    def drawn(self, log_probs: Tensor, noise: Tensor) -> Tensor:
        """(B, rest) -> 1 at one of each group, by its probability, out of standard normal noise (Gumbel-max)."""
        uniform = torch.special.ndtr(noise).clamp(1e-7, 1 - 1e-7)
        return self.hardened(log_probs - (-uniform.log()).log())
