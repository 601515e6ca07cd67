"""What a discriminative model says of held-out data and of files, and the figures that follow from it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from genai.__main__ import run as genai

SMALL = ["experiment=discriminative/logistic", "trainer.max_steps=3", "trainer.eval_every=0", "threads=1", "--quiet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert genai(["train", "discriminative", *SMALL, f"run.dir={folder}"]) == 0
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(folder: Path, count: int = 5, shape: tuple[int, ...] = (8, 8)) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"某 {i}.png")
    return folder


def test_held_out_samples_are_predicted_with_probabilities(trained: Path, tmp_path: Path) -> None:
    assert genai(["sample", str(trained), "--out", str(tmp_path), "--quiet"]) == 0
    rows = table(tmp_path)
    assert len(rows) == 180
    p = np.array([[float(row[f"p({digit})"]) for digit in range(10)] for row in rows])
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert [row["predicted"] for row in rows] == [str(best) for best in p.argmax(1)]
    assert np.mean([row["predicted"] == row["label"] for row in rows]) > 0.9


def test_figures_of_an_evaluation_follow_from_the_predictions(trained: Path, tmp_path: Path) -> None:
    assert genai(["sample", str(trained), "--out", str(tmp_path), "--quiet"]) == 0
    assert genai(["eval", str(trained), "--quiet"]) == 0
    found = json.loads((trained / "eval/digits.json").read_text())
    rows = table(tmp_path)
    labels, chosen = ([row[name] for row in rows] for name in ("label", "predicted"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, chosen))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, chosen, average="macro"))
    assert found["confusion"] == metrics.confusion_matrix(labels, chosen).tolist()
    with Image.open(trained / "eval/digits.confusion.png") as picture:
        assert min(picture.size) > 300


def test_files_without_classes_are_predicted_by_name(trained: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "新 pictures")
    assert genai(["sample", str(trained), "--input", str(folder), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    rows = table(tmp_path / "out")
    assert [row["input"] for row in rows] == [str(folder / f"某 {i}.png") for i in range(5)]
    assert "label" not in rows[0]
    written = json.loads((tmp_path / "out/samples.json").read_text())
    assert written["files"] == ["predictions.csv"]
    assert written["count"] == 5


def test_one_picture_is_predicted(trained: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 2)
    for given, name in ((folder, "all"), (folder / "某 1.png", "one")):
        assert genai(["sample", str(trained), "--input", str(given), "--out", str(tmp_path / name), "--quiet"]) == 0
    assert table(tmp_path / "one") == table(tmp_path / "all")[1:]


def test_of_two_classes_it_is_told_which_one_f1_and_auc_are_of_and_they_follow_from_the_predictions(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=300)
    names = np.where(numbers + rng.normal(size=300) > 1, "恶性", "良性")
    path = tmp_path / "t.csv"
    path.write_text("a,结果\n" + "".join(f"{a!r},{name}\n" for a, name in zip(numbers.tolist(), names, strict=True)))
    run = str(tmp_path / "run")
    settings = ["experiment=discriminative/logistic", f"data.path={path}", "data.target=结果", f"run.dir={run}"]
    assert genai(["train", "discriminative", *settings, "--quiet"]) == 0
    assert genai(["eval", run, "--quiet"]) == 0
    (written,) = Path(run, "eval").glob("*.json")
    found = json.loads(written.read_text())
    assert genai(["sample", run, "--out", str(tmp_path / "s"), "--quiet"]) == 0
    rows = table(tmp_path / "s")
    labels, chosen = ([row[name] for row in rows] for name in ("label", "predicted"))
    positive = found["f1_and_auc_of"]
    p, real = [float(row[f"p({positive})"]) for row in rows], np.array(labels) == positive
    assert found["classes"] == sorted({*labels})
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, chosen, pos_label=positive))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(real, p))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(real, p), rel=1e-5)


def test_rows_are_predicted_whatever_is_known_of_their_target(tmp_path: Path) -> None:
    rows = [f"{i % 10 + i / 97},{'xy'[i % 10 > 4]}\n" for i in range(80)]
    (tmp_path / "t.csv").write_text("a,k\n" + "".join(rows))
    run = str(tmp_path / "run")
    settings = ["experiment=discriminative/logistic", f"data.path={tmp_path / 't.csv'}", "data.target=k"]
    assert genai(["train", "discriminative", *settings, f"run.dir={run}", "--quiet"]) == 0
    (tmp_path / "new.csv").write_text("a,k\n1,x\n9,\n8,never seen\n")
    assert genai(["sample", run, "--input", str(tmp_path / "new.csv"), "--out", str(tmp_path / "s"), "--quiet"]) == 0
    found = [(row["label"], row["predicted"]) for row in table(tmp_path / "s")]
    assert found == [("x", "x"), ("", "y"), ("", "y")]


def test_pictures_of_another_size_and_colour_are_brought_to_the_model_s(trained: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", shape=(40, 30, 3))
    assert genai(["sample", str(trained), "--input", str(folder), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert len(table(tmp_path / "out")) == 5


def test_data_of_another_kind_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "points.npz", x=np.zeros((30, 2), dtype=np.float32))
    assert genai(["sample", str(trained), "--input", str(tmp_path / "points.npz"), "--out", str(tmp_path / "o")]) == 3
    assert "trained on image (1, 8, 8), the data are points" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("a,b\n1.5,2\n3.5,4\n")
    assert genai(["sample", str(trained), "--input", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "o")]) == 3
    told = capsys.readouterr().err
    assert "the model learned from pictures, not from tables" in told
    assert "give --input pictures" in told


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--label", "3"], 2, "--label says nothing to a model that predicts"),
        (["--append-to", "a.csv", "--per-class", "3"], 2, "--append-to says nothing to a model that predicts"),
        (["--task", "vary"], 2, "--task vary says nothing to a model that predicts"),
        (["sampling.steps=3"], 2, "sampling.steps says nothing to this model"),
        (["--input", "nowhere"], 3, "nowhere"),
    ],
)
def test_what_says_nothing_to_it_is_refused(
    trained: Path, tmp_path: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert genai(["sample", str(trained), *arguments, "--out", str(tmp_path / "out")]) == code
    assert says in capsys.readouterr().err


def test_data_without_labels_are_not_evaluated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert genai(["eval", str(trained), "--input", str(pictures(tmp_path / "p"))]) == 3
    assert "no labels to compare with" in capsys.readouterr().err


def test_data_of_one_class_or_none_are_refused_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat, one = pictures(tmp_path / "flat", 30), tmp_path / "one.npz"
    np.savez(one, x=np.zeros((30, 8, 8), dtype=np.uint8), labels=np.zeros(30, dtype=np.int64))
    for path, code, says in ((flat, 3, "no labels to predict"), (one, 2, "the data have one class")):
        settings = [f"data.path={path}", "trainer.max_steps=1", f"run.dir={tmp_path / 'r'}", "--quiet"]
        assert genai(["train", "discriminative", *settings]) == code
        assert says in capsys.readouterr().err
