"""A run and its held-out data -> figures."""

from __future__ import annotations

from genai.contract import Spec
from genai.data.source import Dataset
from genai.device import Runtime
from genai.errors import DataError
from genai.factory import Trained
from genai.trainer import held_out_terms


def held_out_figures(trained: Trained, data: Dataset, runtime: Runtime, *, batch_size: int) -> dict[str, float]:
    """The model's held-out terms on the data's held-out part. Raises DataError where that is missing or no fit."""
    if data.valid is None or len(data.valid) == 0:
        raise DataError("there is no held-out data to evaluate on", fix="type data.valid_fraction=0.1")
    if _fits(data.spec) != _fits(trained.spec):
        raise DataError(
            f"the model was trained on {trained.spec.modality} {trained.spec.shape} with "
            f"{trained.spec.label_classes} classes, the data are {data.spec.modality} {data.spec.shape} with "
            f"{data.spec.label_classes}",
            fix="type data.size and data.channels as in training",
        )
    return held_out_terms(trained.model, data.valid, runtime, batch_size, trained.config.seed)


def _fits(spec: Spec) -> tuple[object, ...]:
    return spec.kind, spec.shape, spec.vocab, spec.classes, spec.label_classes
