"""Figures of predictions are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from genai.metrics.classification import confusion, figures


@pytest.mark.parametrize("classes", [2, 5])
def test_figures_of_classes_are_scikit_learn_s(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 400)
    p = rng.dirichlet(np.ones(classes), 400).round(2) + 1e-3 + 0.3 * np.eye(classes)[labels]  # with ties
    p /= p.sum(1, keepdims=True)
    found, chosen = figures(p, labels, probable=True), p.argmax(1)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, chosen),
        "f1": sk.f1_score(labels, chosen, average=average),
        "auc": sk.roc_auc_score(labels, p[:, 1] if classes == 2 else p, multi_class="ovr"),
        "nll_nats": sk.log_loss(labels, p),
        "brier": sk.brier_score_loss(labels, p[:, 1])
        if classes == 2
        else np.mean((p - np.eye(classes)[labels]) ** 2) * classes,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert (confusion(chosen, labels, classes) == sk.confusion_matrix(labels, chosen)).all()


def test_a_calibrated_forecast_has_no_calibration_error() -> None:
    """Of 0.7 and 0.3, in seven of ten cases right."""
    p = np.tile([[0.3, 0.7]], (10, 1))
    assert figures(p, np.array([1] * 7 + [0] * 3), probable=True)["ece"] == pytest.approx(0)
    assert figures(p, np.array([1] * 10), probable=True)["ece"] == pytest.approx(0.3)


def test_what_one_class_alone_cannot_tell_is_left_out() -> None:
    found = figures(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 1]), probable=False)
    assert found.keys() == {"accuracy", "balanced_accuracy", "f1"}
    assert found["accuracy"] == 0.5
