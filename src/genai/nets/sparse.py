"""Rows of which few numbers are not 0, and a linear layer that reads them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Rows:
    """(N, size): the numbers `values` (M,) stand in `columns` (M,), those of row i from `starts[i]` to `starts[i + 1]`
    (N + 1,)."""

    def __init__(self, starts: Tensor, columns: Tensor, values: Tensor, size: int) -> None:
        self.starts, self.columns, self.values, self.size = starts, columns, values, size
        self._matrices: dict[int, Tensor] = {}
        self._columns: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor) -> Rows:
        counts = self.starts.diff()[index]
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = (self.starts[index] - starts[:-1]).repeat_interleave(counts)
        places = shift + torch.arange(len(shift), device=shift.device)
        return Rows(starts, self.columns[places], self.values[places], self.size)

    def times(self, weight: Tensor) -> Tensor:
        """(K, size) -> (N, K)."""
        used, _ = self._used()
        return self._product(0, weight[:, used].t().contiguous(), len(self))

    def gradient(self, of_products: Tensor) -> Tensor:
        """(N, K) of `times` -> (K, size) of the weight."""
        used, _ = self._used()
        found = self._product(1, of_products.contiguous(), len(used))
        return found.new_zeros(found.shape[1], self.size).index_copy_(1, used, found.t())

    def _used(self) -> tuple[Tensor, Tensor]:
        """The columns in which there is a number, and which of them each number stands in: weights that lie together
        are read in half the time."""
        if self._columns is None:
            self._columns = torch.unique(self.columns, return_inverse=True)
        return self._columns

    def _product(self, which: int, matrix: Tensor, count: int) -> Tensor:
        """Of the used columns (0), or of these transposed (1)."""
        if self.values.device.type == "cpu" and torch.backends.mkl.is_available():  # four times as fast
            product: Tensor = self._compressed(which) @ matrix
            return product
        row = torch.arange(len(self), device=self.starts.device).repeat_interleave(self.starts.diff())
        column = self._used()[1]
        into, of = (column, row) if which else (row, column)
        found = matrix.new_zeros(count, matrix.shape[1])
        return found.index_add_(0, into, matrix[of] * self.values[:, None])

    def _compressed(self, which: int) -> Tensor:
        if which not in self._matrices:
            used, column = self._used()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch: "in beta state"
                if which == 0:
                    found = torch.sparse_csr_tensor(self.starts, column, self.values, (len(self), len(used)))
                else:
                    by_column = self._compressed(0).to_sparse_csc()
                    parts = by_column.ccol_indices(), by_column.row_indices(), by_column.values()
                    found = torch.sparse_csr_tensor(*parts, (len(used), len(self)))
            self._matrices[which] = found
        return self._matrices[which]


class _Product(torch.autograd.Function):
    """Of rows and weights (K, size), the rows fixed."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.times(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.gradient(gradient), None


class SparseLinear(nn.Linear):
    """Rows -> (N, outputs)."""

    def forward(self, rows: Rows) -> Tensor:  # type: ignore[override]
        product: Tensor = _Product.apply(self.weight, rows)
        return product + self.bias
