"""What optimizers there are and their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from genai.registry import Component
from genai.schema import Count, NonNegative, OptimConfig, Positive, Range

Beta = Annotated[float, Range(low=0, high=0.99999)]


@dataclass(frozen=True, kw_only=True)
class AdamConfig(OptimConfig):
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(AdamConfig):
    weight_decay: NonNegative = 0.01


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimConfig):
    """`lr` is of matrices; the other rates are of Adam's, of what is none."""

    momentum: Beta = 0.95
    table_lr: Positive = 0.03  # of tables that ids are read with
    head_lr: Positive = 0.008  # of what logits are made with
    other_lr: Positive = 0.015
    betas: tuple[Beta, Beta] = (0.8, 0.95)
    eps: Positive = 1e-10
    weight_decay: NonNegative = 0.0  # of matrices


@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimConfig):
    momentum: Beta = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class NewtonConfig(OptimConfig):
    """Of full batches; one step runs up to `max_iter` iterations."""

    max_iter: Count = 20
    tolerance_change: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class LBFGSConfig(NewtonConfig):
    history_size: Count = 20


_HERE = "genai.optim_table"
COMPONENTS = {
    "adam": Component("genai.optim:adam", "Adam, fused", f"{_HERE}:AdamConfig"),
    "adamw": Component("genai.optim:adamw", "Adam with decoupled weight decay, fused", f"{_HERE}:AdamWConfig"),
    "muon": Component("genai.muon:Muon", "steps of matrices made orthogonal, Adam for the rest", f"{_HERE}:MuonConfig"),
    "sgd": Component("genai.optim:sgd", "stochastic gradient descent with momentum", f"{_HERE}:SGDConfig"),
    "lbfgs": Component("genai.searches:LBFGS", "L-BFGS with a line search, full batch", f"{_HERE}:LBFGSConfig"),
    "newton": Component("genai.searches:Newton", "Newton's method for losses of squares", f"{_HERE}:NewtonConfig"),
}
