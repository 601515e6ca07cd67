"""Texts that are told apart, pairs of them, and numbers that go with them: read from tables, hashed as scikit-learn
counts, learned by linear machines and by a network."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as figures
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from genai.__main__ import run as genai
from genai.config import compose_train
from genai.contract import Request
from genai.data.held_out import split_ids
from genai.data.passage_rows import PassageRows
from genai.data.source import Dataset, open_data
from genai.data.tokens import read_tokenizer
from genai.errors import ConfigError, DataError
from genai.factory import open_trained
from genai.models.hashed_texts import HashedTexts
from genai.nets import sparse
from genai.nets.ngrams import hashed
from genai.nets.sparse import Rows, SparseLinear
from genai.schema import DataConfig, PathText
from harness import config_of, differences, forked, metrics, train

QUIET = ["threads=1", "--quiet"]
PRESET = ["experiment=discriminative/text_linear", "trainer.eval_every=0"]
LINEAR = [*PRESET, "model.most_ngrams=65536"]
SMALL_NET = ["net.width=16", "net.heads=2", "dtype=fp32", "trainer.eval_every=0", "trainer.max_samples=null"]


def table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def reviews(path: Path, count: int = 120) -> Path:
    said = {
        "neg": ("a dull film", "很差的酒店"),
        "pos": ("a fine film", "很好的酒店"),
        "so so": ("an odd film", "一般"),
    }
    kinds = [list(said)[i % 3] for i in range(count)]
    return table(path, ["label", "text"], [[kind, f"{said[kind][i % 2]}, {i}"] for i, kind in enumerate(kinds)])


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(DataConfig(name="path", path=PathText(str(path)), **settings), predicts="target")


def texts_of(data: Dataset, split: PassageRows) -> list[str]:
    tokenizer = read_tokenizer(data.spec.seen.tokenizer)
    rows = split.fetch(torch.arange(len(split))).cond["input"].numpy()
    return [tokenizer.decode(row[row != tokenizer.end]) for row in rows]


def predictions(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- n-grams -----------------------------------------------------------------------------------------------------------


def mixed(h: int) -> int:
    """In whole numbers of Python."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ (h >> 33)) * factor % 2**64
    return h ^ (h >> 33)


def of_span(text: str) -> int:
    return mixed(sum(mixed(ord(c) + 1) * 0x9E3779B97F4A7C15**i for i, c in enumerate(text)) % 2**64)


def test_a_hash_is_the_same_on_every_machine() -> None:
    rows, hashes = hashed(["Gut!", "你"], "words", 5)
    assert rows.tolist() == [0, 0, 1, 0, 0]
    words = [of_span("gut"), of_span("!"), of_span("你")]
    assert hashes.tolist()[:3] == words
    assert f"{words[0]:016x} {words[2]:016x}" == "ff1b6db96b241134 e6f0acc609325b5f"
    assert hashes.tolist()[3:] == [
        mixed((words[0] * 0x9E3779B97F4A7C15 + words[1]) % 2**64),
        mixed(words[0] + 1 + 2 + 4),
    ]


def test_words_marks_and_parts_of_words_are_found_in_small_letters_and_signs_by_themselves() -> None:
    def count(text: str, kind: Any = "words", longest: int = 5) -> tuple[int, int]:
        hashes = hashed([text], kind, longest)[1]
        return len(hashes), len(set(hashes.tolist()))

    assert count("a b, a b") == (5 + 4, 3 + 3)  # words and marks, and two of them
    assert count("good", longest=2) == (1, 1)
    assert count("good") == (1 + 2 + 1, 4)  # goo ood good, which is another than the word
    assert count("你好吗") == (3 + 2 + 1, 6)
    assert count("ab ab", "characters", 2) == (5 + 4, 3 + 3)
    assert count("") == (0, 0)
    same = [hashed([text], "words", 5)[1].tolist() for text in ("GOOD day", "good DAY")]
    assert same[0] == same[1]
    other = [hashed([text], "characters", 5)[1].tolist() for text in ("GOOD day", "good DAY")]
    assert other[0] != other[1]


def of_bytes(texts: Sequence[str], tmp_path: Path, *overrides: str) -> tuple[HashedTexts, Rows]:
    path = table(tmp_path / "t.csv", ["label", "text"], [[i % 2, text] for i, text in enumerate(texts)])
    data = opened(path, target="label", valid_fraction=0.0)
    config = compose_train("discriminative", [*PRESET, f"data.path={path}", "model.most_ngrams=10000", *overrides])
    found = HashedTexts(spec=data.spec.seen, config=config.model)  # type: ignore[arg-type]
    rows, _ = found.double().prepare(data.train.fetch, len(data.train))
    return found, rows


def dense(rows: Rows) -> np.ndarray:
    used, column = rows._used()
    found = np.zeros((len(rows), len(used)))
    found[np.repeat(np.arange(len(rows)), rows.starts.diff()), column] = rows.values
    return found


@pytest.mark.parametrize("weighting", ["tfidf", "counts"])
def test_weights_of_n_grams_are_scikit_learn_s(weighting: str, tmp_path: Path) -> None:
    """Of all products of two texts, which do not depend on the order of the n-grams."""
    rng = np.random.default_rng(0)
    drawn = ["".join(rng.choice(list("abc Dé你好🙂."), rng.integers(5, 30))) + "x" for _ in range(40)]
    texts = [" ".join(text.split()) for text in drawn]  # as scikit-learn takes blanks together
    _, rows = of_bytes(texts, tmp_path, "model.ngrams=characters", "model.characters=4", f"model.weighting={weighting}")
    if weighting == "tfidf":
        vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, sublinear_tf=True)
        expected = vectoriser.fit_transform(texts).toarray()
    else:
        counts = CountVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False).fit_transform(texts).toarray()
        expected = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    np.testing.assert_allclose(dense(rows) @ dense(rows).T, expected @ expected.T, atol=1e-9)


@pytest.mark.parametrize("mkl", [True, False])
def test_products_of_sparse_rows_and_their_gradient_are_those_of_dense_ones(
    mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse.torch.backends.mkl, "is_available", lambda: mkl)
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(7, 30, generator=generator, dtype=torch.float64)
    full *= torch.rand(7, 30, generator=generator) < 0.2
    full[3] = 0
    row, column = full.nonzero().T
    rows = Rows(torch.searchsorted(row, torch.arange(8)), column, full[row, column], 30)
    layer = SparseLinear(30, 3, dtype=torch.float64)
    index = torch.tensor([5, 3, 3, 0])
    for ours, theirs in ((rows, full), (rows[index], full[index])):
        wanted = torch.randn(len(theirs), 3, generator=generator, dtype=torch.float64)
        given = torch.autograd.grad((layer(ours) * wanted).sum(), [layer.weight, layer.bias])
        product = theirs @ layer.weight.T + layer.bias
        expected = torch.autograd.grad((product * wanted).sum(), [layer.weight, layer.bias])
        torch.testing.assert_close(layer(ours), product)
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other)


# -- data --------------------------------------------------------------------------------------------------------------


def test_texts_are_split_as_other_samples_and_read_whole(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv")
    data = opened(path, target="label")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert data.spec.names == ("neg", "pos", "so so")
    for split, ids in zip((data.train, data.valid), split_ids(len(rows), 0.1, 0), strict=True):
        assert isinstance(split, PassageRows)
        assert texts_of(data, split) == [rows[i]["text"] for i in ids]
        labels = split.fetch(torch.arange(len(split))).x
        assert [data.spec.names[label] for label in labels] == [rows[i]["label"] for i in ids]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_of_all_kinds_hold_the_same_texts(suffix: str, tmp_path: Path) -> None:
    rows = [{"stars": i % 3, "说": f"文本 {i}", "more": f"text {i}"} for i in range(60)]
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        table(path, list(rows[0]), [list(row.values()) for row in rows])
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist(rows), path)
    one = opened(path, target="stars", field="说", valid_fraction=0.0)
    assert isinstance(one.train, PassageRows)
    assert texts_of(one, one.train) == [row["说"] for row in rows]
    assert one.spec.names == ("0", "1", "2")
    both = opened(path, target="stars", field="[说, more]", valid_fraction=0.0)
    x = both.train.fetch(torch.tensor([7])).cond["input"]
    assert x.shape[:2] == (1, 2)
    tokenizer = read_tokenizer(both.spec.seen.tokenizer)
    assert [tokenizer.decode(row[row != tokenizer.end]) for row in x[0].numpy()] == ["文本 7", "text 7"]


def test_a_number_is_measured_on_the_training_part(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(3, 2, 80).round(3)
    path = table(tmp_path / "t.csv", ["text", "score"], [[f"text {i}", n] for i, n in enumerate(numbers)])
    data = opened(path, target="score")
    train, _ = split_ids(80, 0.1, 0)
    assert data.spec.modality == "value"
    assert data.spec.offset[0] == pytest.approx(numbers[train].mean())
    assert data.spec.scale[0] == pytest.approx(numbers[train].std())
    seen = data.train.fetch(torch.arange(len(train))).x * data.spec.scale[0] + data.spec.offset[0]
    np.testing.assert_allclose(seen.numpy(), numbers[train], atol=1e-5)


BAD: dict[str, tuple[list[Sequence[str]], str]] = {
    "no target": ([("a", "x y"), ("b", "z")], "no column 'kind', the columns are label, text"),
    "one class": ([("a", "x y"), ("a", "z")], "the target 'label' holds one class, 'a'"),
    "blank text": ([("a", "x y"), ("b", " "), ("b", "z")], "column 'text' is empty in 1 row, first in row 3"),
    "blank target": ([("a", "x y"), ("b", "z"), ("", "w")], "the target 'label' is empty in 1 row, first in row 4"),
    "no field": ([("a", "x y"), ("b", "z")], "no column 'body'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_texts_is_one_line(name: str, tmp_path: Path) -> None:
    rows, says = BAD[name]
    path = table(tmp_path / "bad.csv", ["label", "text"], rows)
    settings = {"target": "kind"} if name == "no target" else {"field": "body"} if name == "no field" else {}
    with pytest.raises(DataError) as error:
        opened(path, **{"target": "label", **settings})
    assert says in error.value.lines()[0]
    assert error.value.fix


def test_rows_without_a_text_or_a_target_may_be_left_out(tmp_path: Path) -> None:
    rows = [("", "none") if i == 3 else ("ab"[i % 2], "" if i == 5 else f"text {i}") for i in range(30)]
    data = opened(table(tmp_path / "t.csv", ["label", "text"], rows), target="label", on_bad="skip", valid_fraction=0.0)
    assert isinstance(data.train, PassageRows)
    assert texts_of(data, data.train) == [text for label, text in rows if label and text]
    assert [note for note in data.notes if "left out" in note]


def test_a_model_that_predicts_asks_for_the_target_and_one_that_writes_refuses_it(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv")
    with pytest.raises(DataError, match="which column is predicted is not said, the columns are label, text"):
        opened(path)
    (tmp_path / "t.txt").write_text("plain text " * 50)
    with pytest.raises(DataError, match=r"plain text, of which nothing is known"):
        opened(tmp_path / "t.txt")
    config = DataConfig(name="path", path=PathText(str(path)), target="label")
    with pytest.raises(ConfigError, match="is what is predicted of a text") as error:
        open_data(config, predicts="data")
    assert "data.given=[label]" in error.value.fix
    with pytest.raises(DataError, match="names 2 columns, the text that is written is in one"):
        open_data(DataConfig(name="path", path=PathText(str(path)), field=("label", "text")), predicts="data")


def test_texts_choose_their_network_while_composing(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv")
    assert compose_train("discriminative", [f"data.path={path}", "data.target=label"]).net.name == "reader"
    typed = ["data.target=label", "data.field=[标题,text]"]
    assert compose_train("discriminative", [f"data.path={path}", *typed]).data.field == "[标题,text]"


def test_what_shells_and_scripts_write_is_kept_by_tokenizers(tmp_path: Path) -> None:
    rows = [[i % 2, "echo ${HOME} ${HOME}"] for i in range(40)]
    data = opened(table(tmp_path / "t.csv", ["label", "text"], rows), target="label", tokens="bpe", vocab_size=300)
    assert "${" not in data.spec.seen.tokenizer
    assert isinstance(data.train, PassageRows)
    assert texts_of(data, data.train)[0] == rows[0][1]


# -- models ------------------------------------------------------------------------------------------------------------


def scores_of(trained: Any, data: Dataset) -> np.ndarray:
    x = data.train.fetch(torch.arange(len(data.train))).cond["input"]
    with torch.no_grad():
        found: np.ndarray = trained.model.draw(Request(len(x), {"input": x}, [], torch.device("cpu"))).numpy()
    return found


EXACT = ["dtype=fp64", "trainer.max_steps=60", "trainer.grad_tolerance=1e-8", "data.valid_fraction=0"]


def test_logistic_regression_of_texts_is_scikit_learn_s(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv")
    form = ["model.ngrams=characters", "model.characters=2", "model.most_ngrams=1000", "model.C=1"]
    config = config_of("discriminative", tmp_path / "run", *PRESET, *form, *EXACT, f"data.path={path}")
    assert forked(lambda: train(config)) == 0
    data = opened(path, target="label", valid_fraction=0.0)
    assert isinstance(data.train, PassageRows)
    texts, labels = texts_of(data, data.train), data.train.fetch(torch.arange(len(data.train))).x.numpy()
    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), lowercase=False, sublinear_tf=True)
    rows = vectoriser.fit_transform(texts)
    expected = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(rows, labels).predict_proba(rows)
    assert np.abs(scores_of(open_trained(tmp_path / "run", threads=1), data) - expected).max() < 1e-3


def test_ridge_regression_of_molecules_is_scikit_learn_s(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smiles = ["".join(rng.choice(list("CNOc1()="), 12)) for _ in range(50)]
    rows = [[text, text.count("C") + 2 * text.count("N") + rng.normal()] for text in smiles]
    path = table(tmp_path / "m.csv", ["smiles", "expt"], rows)
    form = ["experiment=discriminative/molecules", "model.characters=2", "model.most_ngrams=1000", *EXACT]
    config = config_of("discriminative", tmp_path / "run", *form, f"data.path={path}")
    assert forked(lambda: train(config)) == 0
    data = opened(path, field="smiles", target="expt", valid_fraction=0.0)
    counts = CountVectorizer(analyzer="char", ngram_range=(1, 2), lowercase=False).fit_transform(smiles).toarray()
    known = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    y = np.array([row[1] for row in rows])
    expected = Ridge(1.0).fit(known, y).predict(known)
    found = scores_of(open_trained(tmp_path / "run", threads=1), data)[:, 0] * data.spec.scale[0] + data.spec.offset[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_kernels_of_texts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*LINEAR, "model.kind=kernel_svm", f"data.path={reviews(tmp_path / 'r.csv')}", f"run.dir={tmp_path}/r"]
    assert genai(["train", "discriminative", *settings, *QUIET]) == 2
    assert "compares numbers, here are texts" in capsys.readouterr().err


def pairs(path: Path, count: int) -> Path:
    """Whether both texts speak of one thing: of which neither says anything by itself."""
    rng = np.random.default_rng(0)
    things = np.array(["red", "blue", "tall", "odd", "fast", "new"])
    rows = []
    for _ in range(count):
        one = rng.choice(things)
        other = one if rng.random() < 0.5 else rng.choice(things[things != one])
        rows.append([f"it is {one}", f"yes, {other}", "same" if one == other else "different"])
    return table(path, ["first", "second", "answer"], rows)


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_pairs_are_told_apart_by_what_both_say_together(kind: str, tmp_path: Path) -> None:
    path = pairs(tmp_path / "p.csv", 600)
    network = ["experiment=discriminative/text", *SMALL_NET, "data.vocab_size=300", "trainer.max_steps=150"]
    form = LINEAR if kind == "linear" else [*network, "net.hide=0", "net.dropout=0", "optim.lr=1e-2"]
    right = {}
    for field in ("[first,second]", "first"):
        config = config_of(
            "discriminative", tmp_path / field, *form, f"data.path={path}", "data.target=answer", f"data.field={field}"
        )
        assert forked(lambda config=config: train(config)) == 0
        right[field] = metrics(tmp_path / field)[-1]["valid/accuracy"]
    assert right["[first,second]"] > 0.95
    assert right["first"] < 0.8  # a negative control


@pytest.fixture(scope="module", params=["text_linear", "text"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    path = reviews(folder / "r.csv", 300)
    form = ["model.most_ngrams=65536"] if request.param == "text_linear" else [*SMALL_NET, "data.vocab_size=300"]
    form += ["net.hide=0.1", "trainer.max_steps=150", "optim.lr=1e-2"] if request.param == "text" else []
    preset = [f"experiment=discriminative/{request.param}", f"data.path={path}", *form]
    assert forked(lambda: train(config_of("discriminative", folder / "run", *preset))) == 0
    return folder / "run"


def test_held_out_texts_are_told_apart_and_evaluated_as_scikit_learn_does(trained: Path, tmp_path: Path) -> None:
    assert genai(["sample", str(trained), "--out", str(tmp_path), *QUIET]) == 0
    rows = predictions(tmp_path)
    assert len(rows) == 30
    assert all("film" in row["input"] or "，" in row["input"] or "," in row["input"] for row in rows)
    assert genai(["eval", str(trained), *QUIET]) == 0
    found = json.loads((trained / "eval/r.csv.json").read_text())
    labels, chosen = ([row[name] for row in rows] for name in ("label", "predicted"))
    assert found["accuracy"] == pytest.approx(figures.accuracy_score(labels, chosen))
    assert found["f1"] == pytest.approx(figures.f1_score(labels, chosen, average="macro"))
    assert found["accuracy"] > 0.9


def test_a_text_alone_and_texts_without_labels_are_told_apart(trained: Path, tmp_path: Path) -> None:
    texts = ["a fine film, says he", "很差的酒店", "a dull  film of two hours"]
    assert genai(["sample", str(trained), *(f"--prompt={text}" for text in texts), "--out", str(tmp_path / "a")]) == 0
    alone = predictions(tmp_path / "a")
    assert [row["input"] for row in alone] == [" ".join(text.split()) for text in texts]
    assert [row["predicted"] for row in alone] == ["pos", "neg", "neg"]
    (tmp_path / "new.txt").write_text("a fine film, says he\n\n很差的酒店\n", encoding="utf-8")
    new = table(tmp_path / "new.csv", ["id", "comment"], [[7, " ".join(text.split())] for text in texts])
    for path, count in ((tmp_path / "new.txt", 2), (new, 3)):
        assert genai(["sample", str(trained), "--input", str(path), "--out", str(tmp_path / "b"), *QUIET]) == 0
        rows = predictions(tmp_path / "b")
        assert "label" not in rows[0]
        for row, other in zip(rows, alone[:count], strict=True):
            assert row["predicted"] == other["predicted"]
            assert float(row["p(pos)"]) == pytest.approx(float(other["p(pos)"]), abs=1e-4)


def test_what_stands_beside_a_text_in_a_batch_changes_nothing(trained: Path) -> None:
    model = open_trained(trained, threads=1).model
    data = opened(trained.parent / "r.csv", target="label", valid_fraction=0.0)
    tokenizer, longest = read_tokenizer(model.spec.seen.tokenizer), 40
    texts = ["a fine film", "很好", "a dull film, which is longer than the others " * 2]
    x = torch.full((3, longest), tokenizer.end)
    for row, text in zip(x, texts, strict=True):
        ids = torch.from_numpy(tokenizer.encode(text).astype(np.int64))[:longest]
        row[: len(ids)] = ids

    def drawn(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.draw(Request(len(x), {"input": x}, [], torch.device("cpu")))

    together, alone = drawn(x), torch.cat([drawn(row[None, : max(1, int((row != tokenizer.end).sum()))]) for row in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert data.spec.names == model.spec.names


def test_other_texts_are_evaluated_where_their_classes_are_known(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = table(tmp_path / "good.csv", ["text", "label"], [["a fine film, 1", "pos"], ["a dull film, 2", "neg"]])
    assert genai(["eval", str(trained), f"data.path={good}", *QUIET]) == 0
    assert json.loads((trained / "eval/good.csv.json").read_text())["num_held_out"] == 2
    for rows, says in (
        ([["a film", "pos"], ["a book", "meh"]], "column 'label' holds 'meh' in row 3, which training did not see"),
        ([["a film", "pos"], ["a book", ""]], "no column label to compare with, or rows in which it is empty"),
    ):
        capsys.readouterr()
        path = table(tmp_path / "bad.csv", ["text", "label"], rows)
        assert genai(["eval", str(trained), f"data.path={path}", *QUIET]) == 3
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["text_linear", "text", "molecules"])
def test_a_training_on_texts_that_was_killed_goes_on_as_if_it_had_not_been(preset: str, tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv")
    form = [f"experiment=discriminative/{preset}", f"data.path={path}"]
    if preset == "molecules":
        path = table(
            tmp_path / "m.csv", ["smiles", "expt"], [["C" * (i % 9 + 1) + "N", i % 9 + 0.5] for i in range(60)]
        )
        form[1] = f"data.path={path}"
    form += [*SMALL_NET, "data.vocab_size=300"] if preset == "text" else ["model.most_ngrams=4096", "optim.max_iter=2"]
    few = ["trainer.max_steps=4", "trainer.save_every=2", "trainer.eval_every=1", "trainer.grad_tolerance=null"]
    settings = {text.split("=")[0]: text for text in [*form, *few]}
    whole, halves = (config_of("discriminative", tmp_path / name, *settings.values()) for name in ("whole", "halves"))
    assert forked(lambda: train(whole)) == 0
    assert forked(lambda: train(halves), faults="kill@step:3") == -9
    assert forked(lambda: train(halves, resume=True)) == 0
    assert differences(tmp_path / "whole", tmp_path / "halves") == []
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")
