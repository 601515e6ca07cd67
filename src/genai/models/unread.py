"""Settings of a discriminative model that it would not read, of what it is and of what the data are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from genai.contract import Spec
from genai.errors import ConfigError
from genai.models import DiscriminativeConfig


def refuse_unread(config: DiscriminativeConfig, spec: Spec) -> None:
    """Raises ConfigError for one that differs from its default and says nothing here."""
    given, kind = spec.cond["input"].modality, config.kind
    ratings, numbers, network = spec.modality == "ratings", spec.modality == "value", kind == "network"
    machine, texts, classes = not network, given == "text", not (ratings or numbers)
    pictures = ("pictures that a network learns", network and given == "image")
    of_classes, of_ratings = ("classes", classes), ("ratings", ratings)
    kernel, n_grams = ("kernel machines", kind == "kernel_svm"), ("texts that a machine learns", machine and texts)
    margins = kind in ("linear_svm", "svr", "kernel_svm")
    read = {
        "loss": ("networks", network),
        "mel_bands": ("sounds that a network learns", network and given == "audio"),
        "label_smoothing": ("classes that a network tells apart", network and classes),
        "class_weights": of_classes,
        "calibrate": of_classes,
        "mixup": ("numbers that a network reads", network and not texts and not ratings),
        "augment": pictures,
        "mirror_answers": pictures,
        "C": ("machines", machine),
        "hinge": ("support vector machines", margins),
        "epsilon": ("support vector machines that predict a number", margins and numbers),
        "standardise": ("numbers that a machine learns", machine and not texts),
        "features": kernel,
        "num_features": kernel,
        "gamma": kernel,
        "factors": of_ratings,
        "penalty": of_ratings,
        "left_out": of_ratings,
        "equalise": of_ratings,
        "item_features": of_ratings,
        "ngrams": n_grams,
        "characters": n_grams,
        "weighting": n_grams,
        "most_ngrams": n_grams,
    }
    usual = {field.name: field.default for field in fields(config)}
    for name, (what_it_is_of, is_read) in read.items():
        if not is_read and getattr(config, name) != usual[name]:
            target = "ratings" if ratings else "a number" if numbers else "classes"
            here = f"here a {kind} learns {target} from {'users' if ratings else given}"
            raise ConfigError(f"model.{name} is of {what_it_is_of}, {here}", fix=f"type {_setting(name, usual[name])}")


def _setting(name: str, value: Any) -> str:
    if value == ():
        return f"'model.{name}=[]'"
    return f"model.{name}={str(value).lower() if isinstance(value, bool) else value}"
