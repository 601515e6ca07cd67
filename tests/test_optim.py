"""Optimizers, schedules, the moving average and optimizer state as data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der
from torch import nn

from genai import registry
from genai.errors import CheckpointError
from genai.muon import Muon, orthogonal
from genai.optim import Ema, global_norm, lr_scale, pack_state, unpack_state
from genai.optim_table import AdamConfig, AdamWConfig, LBFGSConfig, MuonConfig, SGDConfig
from genai.schema import OptimConfig
from genai.searches import LBFGS

CONFIGS = {
    "adam": AdamConfig(name="adam", lr=0.01, betas=(0.5, 0.9)),
    "adamw": AdamWConfig(name="adamw", lr=0.01, weight_decay=0.1),
    "muon": MuonConfig(name="muon", lr=0.02, weight_decay=0.1),
    "sgd": SGDConfig(name="sgd", lr=0.05, nesterov=True, weight_decay=0.01),
    "lbfgs": LBFGSConfig(name="lbfgs", lr=1.0, max_iter=4, history_size=3),
}


def schedule(kind: str, **settings: float) -> OptimConfig:
    return OptimConfig(name="adam", lr=1.0, schedule=kind, **settings)  # type: ignore[arg-type]


def test_cosine_equals_torchs_own_annealing() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.1)
    for step in range(50):
        ours = lr_scale(schedule("cosine", final_lr_ratio=0.1), step * 64, step / 50)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_linear_equals_torchs_own_decay() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.2, total_iters=20)
    for step in range(20):
        assert lr_scale(schedule("linear", final_lr_ratio=0.2), step, step / 20) == pytest.approx(
            reference.get_last_lr()[0]
        )
        optimizer.step()
        reference.step()


def test_wsd_warms_up_in_samples_stays_and_decays_with_the_budget() -> None:
    config = schedule("wsd", warmup_samples=99, decay_fraction=0.25)
    assert lr_scale(config, 0, 0) == pytest.approx(0.01)
    assert lr_scale(config, 49, 0.049) == pytest.approx(0.5)
    assert lr_scale(config, 100, 0.1) == lr_scale(config, 750, 0.75) == 1.0
    assert lr_scale(config, 875, 0.875) == pytest.approx(0.5)
    assert lr_scale(config, 1000, 1) == 0.0


def test_nothing_decays_while_the_end_is_unknown() -> None:
    assert lr_scale(schedule("cosine"), 10_000, None) == 1.0


def test_ema_equals_torchs_average_once_ramped_up() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, half_life_samples=100, rampup=math.inf)
    decay = 0.5 ** (32 / 100)
    reference = torch.optim.swa_utils.AveragedModel(
        copy.deepcopy(model), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )
    reference.update_parameters(model)  # its first call copies
    for step in range(1, 8):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        ema.update(model, samples=32 * step, batch=32)
        reference.update_parameters(model)
    for ours, theirs in zip(ema.model.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("half_life", [0, 1000])
def test_ema_is_a_copy_at_zero_half_life(half_life: int) -> None:
    model = nn.BatchNorm1d(3)
    ema = Ema(model, half_life_samples=half_life, rampup=0.0 if half_life else 1.0)
    with torch.no_grad():
        model.weight += 1
        model.running_mean += 2  # type: ignore[operator]
    ema.update(model, samples=64, batch=64)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value), name


def test_ema_half_life_is_counted_in_samples_whatever_the_batch() -> None:
    ends = []
    for batch in (10, 50):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        ema = Ema(model, half_life_samples=100, rampup=math.inf)
        nn.init.ones_(model.weight)
        for seen in range(batch, 101, batch):
            ema.update(model, samples=seen, batch=batch)
        ends.append(ema.model.weight.item())  # type: ignore[union-attr, operator]
    assert ends == pytest.approx([0.5, 0.5])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(step))

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]


def build(name: str) -> tuple[nn.Module, torch.optim.Optimizer, dict[nn.Parameter, str]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = registry.load(registry.find("optim", name).target)(model.parameters(), CONFIGS[name])
    return model, optimizer, {p: n for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_packed_state_continues_bit_for_bit(name: str) -> None:
    model, optimizer, names = build(name)
    train(model, optimizer, range(5))
    tensors, data = pack_state(optimizer, names)
    tensors = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    weights = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(5, 10))

    again, fresh, names = build(name)
    again.load_state_dict(weights)
    unpack_state(fresh, names, tensors, data)
    train(again, fresh, range(5, 10))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key

    # Negative control: without its state the optimizer goes elsewhere.
    forgetful, fresh, _ = build(name)
    forgetful.load_state_dict(weights)
    train(forgetful, fresh, range(5, 10))
    assert any(not torch.equal(v, forgetful.state_dict()[k]) for k, v in model.state_dict().items())


def searched(loss: Callable[[torch.Tensor], torch.Tensor], start: list[float], **settings: float) -> tuple[Any, int]:
    """Where L-BFGS ends, and how often it asked for the loss."""
    x, asked = nn.Parameter(torch.tensor(start, dtype=torch.float64)), 0
    optimizer = LBFGS([x], LBFGSConfig(name="lbfgs", lr=1.0, max_iter=500, **settings))  # type: ignore[arg-type]

    def closure() -> torch.Tensor:
        nonlocal asked
        asked, x.grad = asked + 1, None
        found = loss(x)
        found.backward()
        return found

    optimizer.step(closure)
    assert optimizer.stalled or float(x.grad.norm()) == 0  # type: ignore[union-attr]
    return x.detach(), asked


def test_lbfgs_finds_the_least_of_a_valley_as_scipy_does() -> None:
    """Rosenbrock's, in ten dimensions, in no more evaluations."""

    def valley(x: torch.Tensor) -> torch.Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    start = [-1.2, 1.0] * 5
    peer = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", options={"maxcor": 20, "gtol": 1e-9, "ftol": 0})
    found, asked = searched(valley, start)
    np.testing.assert_allclose(found, peer.x, atol=1e-6)
    assert asked < 1.5 * peer.nfev


def test_lbfgs_finds_the_least_of_a_loss_with_edges_and_past_infinity() -> None:
    found, _ = searched(lambda x: (x - torch.tensor([1.0, -2.0])).abs().sum() + 0.1 * x.square().sum(), [3.0, 3.0])
    np.testing.assert_allclose(found, [1, -2], atol=1e-6)
    found, _ = searched(lambda x: -x.log().sum() + x.sum(), [1e-3, 30.0])  # no number below 0
    np.testing.assert_allclose(found, [1, 1], atol=1e-6)


def test_state_of_a_missing_tensor_or_parameter_is_refused() -> None:
    model, optimizer, names = build("adam")
    train(model, optimizer, range(1))
    tensors, data = pack_state(optimizer, names)
    with pytest.raises(CheckpointError, match="not there"):
        unpack_state(optimizer, names, {}, data)
    with pytest.raises(CheckpointError, match="does not train"):
        unpack_state(optimizer, names, tensors, {"other.weight": {}})


def test_global_norm_equals_torchs() -> None:
    parameters = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(7))]
    for p in parameters:
        p.grad = torch.randn_like(p)
    ours = global_norm([p.grad for p in parameters if p.grad is not None])
    torch.testing.assert_close(ours, torch.nn.utils.get_total_norm([p.grad for p in parameters]))


def test_muon_takes_torchs_own_steps_of_matrices_and_adams_of_the_rest() -> None:
    """Matrices of two sizes, one of them two that lie one below the other; torch's iteration runs in bf16."""
    torch.manual_seed(0)
    table, vector, matrix, pair = torch.randn(7, 4), torch.randn(5), torch.randn(6, 4), torch.randn(12, 4)
    ours = [nn.Parameter(value.clone()) for value in (table, vector, matrix, pair)]
    ours[0].role = "table"  # type: ignore[attr-defined]
    ours[3].rows = [6, 6]  # type: ignore[attr-defined]
    config = MuonConfig(name="muon", lr=0.02, table_lr=0.3, other_lr=0.1, weight_decay=0.1)
    optimizer = Muon(ours, config)
    theirs = [nn.Parameter(value.clone()) for value in (table, vector, matrix, *pair.split(6))]
    groups = [{"params": theirs[:1], "lr": 0.3}, {"params": theirs[1:2], "lr": 0.1}]
    adam = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, weight_decay=0.0)
    muon = torch.optim.Muon(theirs[2:], lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in ours]
        for parameter, gradient in zip(ours, gradients, strict=True):
            parameter.grad = gradient
        for parameter, gradient in zip(theirs, [*gradients[:3], *gradients[3].split(6)], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        adam.step()
        muon.step()
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=0, atol=5e-3)
    torch.testing.assert_close(ours[3], torch.cat(theirs[3:]), rtol=0, atol=5e-3)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 20, 6), (1, 6, 20)])
def test_newton_schulz_keeps_the_directions_and_evens_the_lengths(shape: tuple[int, int, int]) -> None:
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(m)
    assert torch.linalg.svdvals(found).max() < 1.3
    assert torch.linalg.svdvals(found).min() > 0.3
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    inner = u.mT @ found @ v.mT
    assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_what_is_not_finite_reaches_no_matrix() -> None:
    """A flag on the device stands for the look that a CPU takes."""
    matrix = nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([matrix], MuonConfig(name="muon", lr=0.1, weight_decay=0.1))
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    matrix.grad = torch.randn(3, 3)
    optimizer.step()
    before, buffer = matrix.detach().clone(), optimizer.state[matrix]["momentum_buffer"].clone()
    assert not torch.equal(before, torch.ones(3, 3))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    matrix.grad = torch.full((3, 3), float("nan"))
    optimizer.step()
    assert torch.equal(matrix, before)
    assert torch.equal(optimizer.state[matrix]["momentum_buffer"], buffer)
