"""Users get what they have not had yet: by all items, against sums over all of them and against scikit-learn."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from genai.__main__ import run as genai
from genai.config import compose_train
from genai.contract import Request
from genai.data.ratings import Histories
from genai.data.source import Dataset
from genai.factory import build_model, open_dataset, open_trained
from genai.metrics import ranking
from genai.models.recommender import Recommender
from harness import config_of, differences, forked, train

USERS, ITEMS, GROUPS = 80, 48, 4
PRESET = "experiment=discriminative/recommend"


def rows_of_groups(seed: int = 0) -> list[tuple[str, str]]:
    """Every user likes the items of one group; some items of another one are the most popular."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        liked = [item for item in range(ITEMS) if item % GROUPS == user % GROUPS]
        own = random.choice(liked, 8, replace=False).tolist() + random.choice(ITEMS, 2, replace=False).tolist()
        rows += [(f"u{user}", f"i{item}") for item in dict.fromkeys(own)]
    return rows


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("user", "item")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def opened(path: Path, *overrides: str) -> tuple[Dataset, Recommender]:
    config = compose_train("discriminative", [PRESET, f"data.path={path}", *overrides])
    data = open_dataset(config, None)
    torch.manual_seed(0)
    model = build_model(config, data.spec).double()
    assert isinstance(model, Recommender)
    model.prepare(data.train.fetch, len(data.train), 0)
    return data, model


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ratings") / "ratings.csv", rows_of_groups())


@pytest.fixture(scope="module")
def trained(ratings: Path) -> Path:
    folder = ratings.parent / "run"
    items = write(ratings.parent / "items.csv", [(f"i{i}", f"第 {i} item") for i in range(ITEMS)], ("item_id", "title"))
    settings = [f"data.path={ratings}", f"data.items={items}", f"run.dir={folder}", "trainer.max_steps=120"]
    assert genai(["train", "discriminative", PRESET, *settings, "model.penalty=5", "threads=1", "--quiet"]) == 0
    return folder


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    relevant, scores = random.random((30, 40)) < 0.1, random.random((30, 40))
    relevant[:, 0] = True
    hits = np.take_along_axis(relevant, np.argsort(-scores, axis=1), 1)[:, :10]
    found = ranking.figures(hits, relevant.sum(1))
    assert found["ndcg_at_10"].mean() == pytest.approx(ndcg_score(relevant, scores, k=10))
    assert found["hit_rate_at_10"].tolist() == [float(row.any()) for row in hits]
    assert found["recall_at_10"].tolist() == pytest.approx(
        [row.sum() / all_.sum() for row, all_ in zip(hits, relevant, strict=True)]
    )


def test_the_loss_is_the_sum_over_all_items_of_what_others_say(ratings: Path) -> None:
    data, model = opened(ratings, "model.penalty=7", "model.left_out=0.3", "model.equalise=0.4")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    batch = data.train.fetch(torch.arange(len(data.train)))
    had = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    for user in range(USERS):
        had[user, batch.x[user][batch.mask[user]]] = 1
    own, offered, _ = model.towers()
    b = (own @ offered.T).fill_diagonal_(0)
    weight = had.sum(1) ** -0.4
    weight = weight / weight.mean()
    cost = 0.3 / 0.7 * (weight[:, None] * had).sum(0) + 7
    expected = (weight[:, None] * (had - had @ b) ** 2).sum() + (cost[:, None] * b**2).sum()
    torch.testing.assert_close(model.objective(batch)["loss"], expected / USERS)


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_an_item_had_is_compared_with_those_that_were_not(ratings: Path, loss: str) -> None:
    data, model = opened(ratings, f"model.loss={loss}", "model.penalty=0", "model.left_out=0", "model.equalise=0")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    batch = data.train.fetch(torch.tensor([3]))
    model.requires_grad_(False)
    mine, (own, offered, bias) = batch.x[0][batch.mask[0]].tolist(), model.towers()
    assert bool((model.popularity > 0).all())
    others = [item for item in range(ITEMS) if item not in mine]
    z = own[mine].sum(0)
    expected, draws = 0.0, []
    for item in mine:
        score = (z - own[item]) @ offered[item] + bias[item]
        against = offered[others] @ z + bias[others]
        if loss == "softmax":
            expected += float(torch.cat([against, score[None]]).logsumexp(0) - score)
        else:  # one of all items is drawn, and counts where it was not had
            expected += float(torch.nn.functional.softplus(against - score).sum() / ITEMS)
    for _ in range(1 if loss == "softmax" else 1000):
        draws.append(float(model.objective(batch)["loss"]))
    assert np.mean(draws) == pytest.approx(expected, rel=1e-9 if loss == "softmax" else 0.03)


def test_held_out_items_are_not_learned_from(ratings: Path) -> None:
    data, model = opened(ratings)
    batch, held_out = data.train.fetch(torch.arange(USERS)), data.valid.fetch(torch.arange(USERS))
    for user in range(USERS):
        learned, looked_for = set(batch.x[user][batch.mask[user]].tolist()), set(held_out.x[user].tolist()) - {-1}
        assert len(looked_for) == 1
        assert learned | looked_for == set(batch.x[user].tolist()) - {-1}
        assert not learned & looked_for
    other = batch.x.clone()
    unused = ~batch.mask & (batch.x >= 0)
    other[unused] = (other[unused] + 1) % ITEMS
    loss = model.objective(batch)["loss"]
    assert torch.equal(loss, model.objective(batch.replace(x=other))["loss"])
    other[batch.mask] = (other[batch.mask] + 1) % ITEMS
    assert not torch.equal(loss, model.objective(batch.replace(x=other))["loss"])


def test_the_split_does_not_depend_on_the_order_of_rows(ratings: Path, tmp_path: Path) -> None:
    rows = [tuple(row.values()) for row in read(ratings)]
    turned = write(tmp_path / "ratings.csv", reversed(rows))
    assert opened(ratings)[0].fingerprint == opened(turned)[0].fingerprint
    assert opened(ratings)[0].fingerprint != opened(ratings, "data.split_seed=1")[0].fingerprint


def test_a_trained_model_finds_more_than_popularity(trained: Path) -> None:
    assert genai(["eval", str(trained), "--quiet"]) == 0
    found = json.loads((trained / "eval/ratings.csv.json").read_text())
    assert found["ndcg_at_10"] > 3 * found["popularity_ndcg_at_10"] > 0
    assert found["coverage_at_10"] > 0.9
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["valid/ndcg_at_10"] == pytest.approx(found["ndcg_at_10"])


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_other_losses_find_more_than_popularity(ratings: Path, tmp_path: Path, loss: str) -> None:
    run = tmp_path / "run"
    given = [PRESET, f"data.path={ratings}", f"model.loss={loss}", "model.penalty=0.5", "trainer.max_steps=120"]
    assert forked(lambda: train(config_of("discriminative", run, *given))) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["valid/ndcg_at_10"] > 2 * last["valid/popularity_ndcg_at_10"]


def test_users_get_titles_of_what_they_have_not_had(trained: Path, ratings: Path, tmp_path: Path) -> None:
    labels = ["--label", "u3", "--label", "u10"]
    assert genai(["sample", str(trained), *labels, "-n", "12", "--out", str(tmp_path), "--quiet"]) == 0
    rows = read(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["user", "rank", "item", "title", "score"]
    for user in ("u3", "u10"):
        mine = [row for row in rows if row["user"] == user]
        assert [int(row["rank"]) for row in mine] == list(range(1, 13))
        scores = [float(row["score"]) for row in mine]
        assert scores == sorted(scores, reverse=True)
        assert not {row["item"] for row in mine} & {row["item"] for row in read(ratings) if row["user"] == user}
        assert all(row["title"] == f"第 {row['item'][1:]} item" for row in mine)
        liked = [int(row["item"][1:]) % GROUPS == int(user[1:]) % GROUPS for row in mine]
        assert all(liked[:3])
        assert not all(liked)


def test_nothing_seen_comes_out_also_where_nothing_else_is_left(trained: Path, tmp_path: Path) -> None:
    assert genai(["sample", str(trained), "-n", str(ITEMS), "--out", str(tmp_path), "--quiet"]) == 0
    had = {(row["user"], row["item"]) for row in read(Path(str(trained)).parent / "ratings.csv")}
    given = {(row["user"], row["item"]) for row in read(tmp_path / "predictions.csv")}
    assert not had & given
    assert len(had) + len(given) == USERS * ITEMS


def test_a_new_user_is_known_by_what_they_had(trained: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", [("新", f"i{item}") for item in (1, 5, 9, 13)])
    assert genai(["sample", str(trained), "--input", str(new), "-n", "3", "--out", str(tmp_path / "o"), "--quiet"]) == 0
    rows = read(tmp_path / "o/predictions.csv")
    assert [row["user"] for row in rows] == ["新"] * 3
    assert all(int(row["item"][1:]) % GROUPS == 1 for row in rows)
    assert not {row["item"] for row in rows} & {"i1", "i5", "i9", "i13"}


def test_a_test_file_is_ranked_beside_all_that_is_known(trained: Path, ratings: Path, tmp_path: Path) -> None:
    """What the run held out is masked, too; figures are those of a loop over users."""
    had: dict[str, set[int]] = {}
    for row in read(ratings):
        had.setdefault(row["user"], set()).add(int(row["item"][1:]))
    wanted = {
        user: min(set(range(ITEMS)) - had[user], key=lambda i: i % GROUPS != int(user[1:]) % GROUPS) for user in had
    }
    test = write(tmp_path / "test.csv", [(user, f"i{item}") for user, item in wanted.items()])
    assert genai(["eval", str(trained), "--input", str(test), "--quiet"]) == 0
    found = json.loads((trained / "eval/test.csv.json").read_text())
    model = open_trained(trained, threads=1).model
    names, users = model.spec.names, model.spec.cond["input"].names
    request = Request(count=USERS, cond={"input": torch.arange(USERS)}, generators=[], device=torch.device("cpu"))
    gains = []
    for user, scores in zip(users, model.draw(request), strict=True):
        best = [names[i] for i in scores.argsort(descending=True)[:10].tolist()]
        wish = f"i{wanted[user]}"
        gains.append(1 / np.log2(best.index(wish) + 2) if wish in best else 0.0)
    assert found["ndcg_at_10"] == pytest.approx(np.mean(gains))
    assert found["ndcg_at_10"] > 0.3


def test_new_users_are_judged_by_a_share_of_what_they_had(trained: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", [(f"new {user}", item) for user, item in rows_of_groups(seed=1)])
    assert genai(["eval", str(trained), "--input", str(new), "--quiet"]) == 0
    found = json.loads((trained / "eval/new.csv.json").read_text())
    assert found["ndcg_at_10"] > 0.4 > 2 * found["popularity_ndcg_at_10"]


def test_resume_is_exact(ratings: Path, tmp_path: Path) -> None:
    given = [PRESET, f"data.path={ratings}", "trainer.max_steps=6", "trainer.save_every=2", "model.loss=bpr"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert forked(lambda: train(config_of("discriminative", whole, *given))) == 0
    config = config_of("discriminative", halves, *given)
    assert forked(lambda: train(config), faults="kill@step:3") == -9
    assert forked(lambda: train(config, resume=True)) == 0
    assert differences(whole, halves) == []


def test_two_micro_batches_are_one_batch(ratings: Path) -> None:
    data, model = opened(ratings)
    model.objective(data.train.fetch(torch.arange(40)))["loss"].backward()
    at_once = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for part in torch.arange(40).split(20):
        (model.objective(data.train.fetch(part))["loss"] / 2).backward()
    torch.testing.assert_close(at_once, [p.grad for p in model.parameters()])


def test_what_is_known_of_items_tells_of_one_that_nobody_had(tmp_path: Path) -> None:
    rows = [row for row in rows_of_groups() if row[1] not in ("i0", "i1", "i2", "i3")]
    path = write(tmp_path / "r.csv", rows)
    kinds = [(f"i{i}", f"Title {i}", f"group{i % GROUPS}|any", 1990 + i) for i in range(ITEMS)]
    items = write(tmp_path / "items.csv", kinds, ("id", "name", "kind", "year"))
    run = tmp_path / "run"
    settings = [PRESET, f"data.path={path}", f"data.items={items}", "trainer.max_steps=150", "model.penalty=1"]
    assert forked(lambda: train(config_of("discriminative", run, *settings, "optim.lr=0.01"))) == 0
    model = open_trained(run, threads=1).model
    users, names = model.spec.cond["input"].names, model.spec.names
    request = Request(
        count=len(users), cond={"input": torch.arange(len(users))}, generators=[], device=torch.device("cpu")
    )
    scores = model.draw(request)[:, [names.index(f"i{i}") for i in range(GROUPS)]]
    right = [int(row.argmax()) == int(user[1:]) % GROUPS for user, row in zip(users, scores, strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_an_item_that_nobody_had_is_not_ranked_above_those_that_some_had(loss: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", rows_of_groups())
    titles = [(f"i{i}", f"Title {i}") for i in range(ITEMS)] + [(f"n{i}", f"New {i}") for i in range(200)]
    items = write(tmp_path / "items.csv", titles, ("id", "name"))
    settings = [PRESET, f"data.path={path}", f"data.items={items}", f"model.loss={loss}", "trainer.max_steps=60"]
    run = tmp_path / "run"
    assert forked(lambda: train(config_of("discriminative", run, *settings, "data.valid_fraction=0"))) == 0
    model = open_trained(run, threads=1).model
    new = torch.tensor([name.startswith("n") for name in model.spec.names])
    users = torch.arange(len(model.spec.cond["input"].names))
    request = Request(count=len(users), cond={"input": users}, generators=[], device=torch.device("cpu"))
    scores = model.draw(request)
    assert float(scores[:, new].std()) < 1e-6  # nothing tells one from another
    best = scores.topk(5).indices
    assert float(new[best].float().mean()) < 0.1


def notes_of(path: Path, *overrides: str) -> list[str]:
    return list(opened(path, *overrides)[0].notes)


def test_low_ratings_are_left_out_and_pairs_count_once(tmp_path: Path) -> None:
    rows = [("a", "x", 5, 1), ("a", "x", 4, 2), ("a", "y", 2, 3), ("b", "x", 3, 4), ("b", "y", 5, 5), ("b", "z", "", 6)]
    path = write(tmp_path / "r.csv", rows, ("userId", "movieId", "rating", "timestamp"))
    assert any("counted once: 1 row with a user and an item as before" in note for note in notes_of(path))
    assert "columns that are not used: timestamp" in notes_of(path)
    assert any("5 items of 2 users, 3 different" in note for note in notes_of(path))
    notes = notes_of(path, "data.min_rating=3")
    assert any("left out: 2 rows rated lower than 3" in note for note in notes)
    assert any("3 items of 2 users, 2 different" in note for note in notes)


@pytest.mark.parametrize("header", [("用户", "商品"), ("User ID", "Item-Id"), ("user_id:token", "item_id:token")])
def test_columns_are_known_by_their_names(tmp_path: Path, header: tuple[str, str]) -> None:
    data, _ = opened(write(tmp_path / "r.csv", rows_of_groups(), header))
    assert isinstance(data.train, Histories)
    assert (data.spec.classes, data.spec.cond["input"].classes) == (ITEMS, USERS)


def test_parquet_is_read_as_csv_is(ratings: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    csv_reader = pytest.importorskip("pyarrow.csv")
    parquet.write_table(csv_reader.read_csv(ratings), tmp_path / "r.parquet")
    assert opened(tmp_path / "r.parquet")[0].fingerprint == opened(ratings)[0].fingerprint


GOOD = [("a", "x", 1), ("a", "y", 2), ("b", "x", 3)]


@pytest.mark.parametrize(
    ("rows", "settings", "code", "says"),
    [
        ([*GOOD, ("", "y", 1)], [], 3, "column 'user' is empty in 1 row, first in row 5"),
        ([*GOOD, ("c", "y", "good")], [], 3, "the rating 'good' of row 5 is no number"),
        ([("a", "x", 1), ("b", "x", 2)], [], 3, "the ratings are of 1 item"),
        (GOOD, ["data.min_rating=9"], 3, "no row is left to learn from"),
        (GOOD, ["data.items=none.csv"], 3, "check data.items"),
        (GOOD, ["model.kind=ridge"], 2, "model.kind=ridge is of classes and numbers, the data are ratings"),
        (GOOD, ["model.calibrate=true"], 2, "model.calibrate is of classes, here a network learns ratings from users"),
        (GOOD, ["model.loss=huber"], 2, "model.loss=huber is of classes and numbers, the data are ratings"),
        (GOOD, ["data.target=rating", "data.min_rating=2"], 3, "data.min_rating is of ratings"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, rows: list[tuple[object, ...]], settings: list[str], code: int, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write(tmp_path / "r.csv", rows, ("user", "item", "rating"))
    assert (
        genai(["train", "discriminative", PRESET, f"data.path={path}", *settings, f"run.dir={tmp_path / 'r'}"]) == code
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert says in errors[0]


def test_rows_that_cannot_be_used_are_left_out_on_request(tmp_path: Path) -> None:
    rows = [*GOOD, ("", "y", 1), ("c", "y", "good"), ("c", "x", 2)]
    path = write(tmp_path / "r.csv", rows, ("user", "item", "rating"))
    notes = notes_of(path, "data.on_bad=skip")
    assert any("left out: 1 row without a user or an item" in note for note in notes)
    assert any("left out: 1 row whose rating is no number" in note for note in notes)
    assert any("4 items of 3 users" in note for note in notes)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--label", "nobody"], 2, "no user 'nobody' among the 80 that the model knows (u0, u1, u10, "),
        (["--label", "u1", "--input", "x.csv"], 2, "--label and --input both name users"),
        (["--prompt", "u1"], 2, "--prompt says nothing to a model that predicts"),
    ],
)
def test_users_that_nobody_knows_are_told(
    trained: Path, tmp_path: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert genai(["sample", str(trained), *arguments, "--out", str(tmp_path / "o")]) == code
    assert says in capsys.readouterr().err


def test_items_that_a_model_does_not_know_are_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "test.csv", [("u1", "new1"), ("u2", "new2")])
    assert genai(["eval", str(trained), "--input", str(path)]) == 3
    assert "there are but 2 rows of items that the model does not know, as 'new1'" in capsys.readouterr().err
