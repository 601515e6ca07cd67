"""Linear functions of features, and sums of kernels, for which squares are least: what Newton's method steps to
(Chapelle 2007, Training a support vector machine in the primal)."""

from __future__ import annotations

import torch
from torch import Tensor

from genai.nets.kernels import factor_of


def least(
    rows: Tensor, wanted: Tensor, share: Tensor, strength: float, bias: Tensor, *, kernel: bool
) -> tuple[Tensor, Tensor]:
    """Weights (K, features) and biases (K,) of f = rows w + b for which, each by itself, strength / 2 * sum(share *
    (wanted - f)^2) + |w|^2 / 2 is least; `wanted` and `share` are (N, K). Of a `kernel` rows are its values (N, N), and
    |w|^2 is w' rows w. Where no share is above 0 the weights are 0 and the bias is the one given."""
    weight, bias = rows.new_zeros(wanted.shape[1], rows.shape[1]), bias.clone()
    for k in range(wanted.shape[1]):
        counts = share[:, k].nonzero()[:, 0]
        if not len(counts):
            continue
        alike = k > 0 and torch.equal(share[:, k], share[:, k - 1])  # as all are at first
        if kernel or len(counts) < rows.shape[1]:
            chosen = rows if kernel else rows[counts]
            if not alike:
                matrix = rows[counts[:, None], counts] if kernel else chosen @ chosen.T
                matrix.diagonal().add_(1 / (strength * share[counts, k]))
                factor = factor_of(matrix)
            ones, own = torch.cholesky_solve(torch.stack([torch.ones_like(counts), wanted[counts, k]], 1), factor).T
            bias[k] = own.sum() / ones.sum()  # with it the weights of the rows add up to 0
            of_rows = own - bias[k] * ones
            if kernel:
                weight[k, counts] = of_rows
            else:
                weight[k] = of_rows @ chosen
        else:
            if not alike:
                wide = torch.cat([rows[counts], rows.new_ones(len(counts), 1)], dim=1)
                wide = wide.double()  # before it is multiplied: of numbers far from zero the rest is small
                weighed = wide.T * (strength * share[counts, k])
                matrix = weighed @ wide
                matrix.diagonal()[:-1].add_(1.0)
                factor = factor_of(matrix)
            found = torch.cholesky_solve((weighed @ wanted[counts, k].double())[:, None], factor)[:, 0].to(rows)
            weight[k], bias[k] = found[:-1], found[-1]
    return weight, bias
