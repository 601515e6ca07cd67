"""Tables: what their columns are taken for, rows as numbers and back, and what is refused."""

from __future__ import annotations

import csv
import datetime
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from genai.columns import Column, groups, layout, ranks, width
from genai.contract import Spec
from genai.data.kinds import kind_of, parser_of
from genai.data.sheet import read_csv
from genai.data.source import Dataset, SeenBy, modality_of, open_data
from genai.data.table_rows import from_scores, normal_scores, number_texts, texts_of
from genai.errors import DataError
from genai.models.rows import Rows
from genai.schema import DataConfig, PathText
from genai.table_files import filled_text


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def opened(path: Path, *, predicts: Any = "data", **settings: Any) -> Dataset:
    config = DataConfig(name="path", path=PathText(str(path)), **{"drop": (), **settings})
    return open_data(config, predicts=predicts)


def columns_of(path: Path, **settings: Any) -> dict[str, Column]:
    sheet = read_csv(path, "table", skip=False)
    rows = np.arange(len(sheet))
    return {name: kind_of(name, sheet, rows, **settings) for name in sheet.columns}


def mixed(path: Path, count: int = 400) -> Path:
    random = np.random.RandomState(0)
    rows = []
    for i in range(count):
        price = random.lognormal(3, 1)
        rows.append(
            [
                i + 1,
                f"{price:.2f}",
                random.randint(18, 90),
                ["red", "green", "blue, dark", ""][random.randint(4)],
                ["yes", "no"][random.randint(2)],
                f"202{random.randint(5)}-0{random.randint(1, 10)}-1{random.randint(10)}",
                "" if random.rand() < 0.2 else f"{random.randn():.3g}",
                ["", "NA"][random.randint(2)] if random.rand() < 0.1 else 25 * random.randint(100),
            ]
        )
    return table(path, ["id", "price", "age", "colour", "member", "since", "score", "mass"], rows)


def test_kinds_of_columns_are_found_from_their_texts(tmp_path: Path) -> None:
    found = columns_of(mixed(tmp_path / "a.csv"), drawn=True)
    assert {name: column.kind for name, column in found.items()} == {
        "id": "identifier",
        "price": "number",
        "age": "number",
        "colour": "category",
        "member": "category",
        "since": "date",
        "score": "number",
        "mass": "number",
    }
    assert found["colour"].values == ("blue, dark", "green", "red")
    assert (found["colour"].missing, found["score"].missing, found["price"].missing) == ("", "", None)
    assert (found["price"].step, found["price"].places) == (0.01, (2, 2))
    assert (found["age"].step, found["mass"].step, found["since"].step) == (1.0, 25.0, 86400.0)


def test_codes_with_leading_zeros_are_categories_and_so_are_few_numbers_that_are_drawn(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "a.csv", ["zip", "rooms"], [["00420", i % 4] for i in range(60)] + [["10115", 2]] * 9)
    assert columns_of(path)["zip"].kind == "category"
    assert columns_of(path)["rooms"].kind == "number"
    assert columns_of(path, drawn=True)["rooms"].values == ("0", "1", "2", "3")


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Names, order, types, decimals, dates, missing marks: all but identifiers, which count on."""
    path = mixed(tmp_path / "a.csv")
    data = opened(path, valid_fraction=0)
    x = data.train.fetch(torch.arange(len(data.train))).x
    assert x.shape[1] == width(data.spec.columns)
    made = texts_of(x.numpy(), data.spec.columns)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(made) == list(rows[0])
    assert made["id"][:2] == ["401", "402"]
    for name in ("price", "age", "colour", "member", "since"):
        assert made[name] == [row[name] for row in rows], name
    written = [row["mass"] for row in rows]
    assert [text in ("", "NA") for text in written] == [text in ("", "NA") for text in made["mass"]]
    kept = [(own, text) for own, text in zip(made["mass"], written, strict=True) if text not in ("", "NA")]
    assert [own for own, _ in kept] == [text for _, text in kept]
    for own, text in zip(made["score"], (row["score"] for row in rows), strict=True):
        assert (own == "") == (text == "")
        assert text == "" or float(own) == pytest.approx(float(text), abs=1e-9)


def test_normal_scores_are_the_normal_quantiles_of_ranks() -> None:
    values = np.random.RandomState(0).gamma(2, size=513)
    column = Column("x", "number", count=513, quantiles=tuple(np.quantile(values, ranks(513))))
    of_each = (rankdata(values) - 1) / 512
    expected = norm.ppf((0.5 + of_each * 513) / 514)
    assert np.abs(normal_scores(values, column) - expected).max() < 0.05
    assert np.allclose(from_scores(normal_scores(values, column), column), values)


def test_values_far_out_stay_as_rare_as_they_were() -> None:
    values = np.concatenate([np.random.RandomState(0).rand(49_990), np.full(10, 50.0)])
    column = Column("x", "number", count=50_000, quantiles=tuple(np.quantile(values, ranks(513))))
    drawn = from_scores(np.random.RandomState(1).randn(200_000), column)
    assert 10 < (drawn > 25).sum() < 90
    assert ((drawn > 1.01) & (drawn < 49)).sum() < 30


def test_a_value_that_many_rows_share_comes_back_from_every_score_of_its_ranks() -> None:
    knots = np.sort(np.concatenate([np.zeros(800), np.random.RandomState(0).gamma(2, size=200)]))
    column = Column("x", "number", count=1000, quantiles=tuple(np.quantile(knots, ranks(513))))
    scores = norm.ppf(np.linspace(0.01, 0.79, 50))
    assert (from_scores(scores, column) == 0).all()
    assert norm.cdf(normal_scores(np.zeros(1), column))[0] == pytest.approx(0.4, abs=0.01)


def test_rare_categories_are_one_and_come_back_as_often_as_they_were(tmp_path: Path) -> None:
    names = [f"common {i % 99:02d}" for i in range(2970)] + [f"rare {i}" for i in range(30)]
    data = opened(table(tmp_path / "a.csv", ["town"], [[name] for name in names]), valid_fraction=0)
    (column,) = data.spec.columns
    assert (len(column.values), len(column.rare), sum(column.counts)) == (100, 30, 3000)
    x = data.train.fetch(torch.arange(3000)).x.numpy()
    assert texts_of(x, data.spec.columns)["town"][:2970] == names[:2970]
    drawn = texts_of(np.random.RandomState(0).randn(3000, 100), data.spec.columns)["town"]
    assert len({name for name in drawn if name.startswith("rare")}) > 10


def test_a_target_is_a_class_or_a_number_and_inputs_are_standard(tmp_path: Path) -> None:
    path = mixed(tmp_path / "a.csv")
    classes = opened(path, predicts="target", target="member")
    assert (classes.spec.names, classes.spec.modality) == (("no", "yes"), "label")
    numbers = opened(path, predicts="target", target="price")
    batch = numbers.train.fetch(torch.arange(len(numbers.train)))
    assert (numbers.spec.modality, numbers.spec.shape) == ("value", ())
    assert batch.x.double().mean().abs() < 1e-5
    assert batch.x.double().std(correction=0) == pytest.approx(1, abs=1e-5)
    rows = batch.cond["input"]
    age = next(place.number for place in layout(numbers.spec.seen.columns) if place.number is not None)
    assert rows[:, age].mean().abs() < 1e-5
    with pytest.raises(DataError, match=r"the target .colour. is empty in .* rows, first in row .* data\.on_bad=skip"):
        opened(path, target="colour")
    labelled = opened(path, target="colour", on_bad="skip")
    assert labelled.spec.cond["label"].classes == 3
    assert any("rows without a target" in note for note in labelled.notes)
    assert "label" not in opened(path, target="price").spec.cond  # a number is drawn with the others
    assert opened(path, target="member").spec.cond["label"].names == ("no", "yes")


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_parquet_gives_the_rows_of_csv_and_types_come_back(tmp_path: Path, compression: str) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from genai.table_files import write_rows

    random = np.random.RandomState(0)
    made = pa.table(
        {
            "n": pa.array([int(v) for v in random.randint(0, 1000, 90)], pa.int32()),
            "f": pa.array([None if v < -1 else float(v) for v in random.randn(90)]),
            "b": pa.array([bool(v) for v in random.randint(0, 2, 90)]),
            "s": pa.array([["x", "y", None][v] for v in random.randint(0, 3, 90)]).dictionary_encode(),
            "d": pa.array(
                [datetime.date(2024, 1, 1) + datetime.timedelta(int(v)) for v in random.randint(0, 99, 90)], pa.date32()
            ),
        }
    )
    parquet.write_table(made, tmp_path / "a.parquet", compression=compression)
    data = opened(tmp_path / "a.parquet", valid_fraction=0)
    kinds = [column.kind for column in data.spec.columns]
    assert kinds == ["number", "number", "category", "category", "date"]
    texts = texts_of(data.train.fetch(torch.arange(90)).x.numpy(), data.spec.columns)
    assert write_rows(tmp_path, texts, data.spec.columns, "samples") == ["samples.csv", "samples.parquet"]
    again = parquet.read_table(tmp_path / "samples.parquet")
    assert [str(t) for t in again.schema.types] == ["int32", "double", "bool", "string", "date32[day]"]
    for name in ("n", "b", "s", "d"):
        assert again[name].to_pylist() == made[name].to_pylist(), name
    assert np.allclose([v or 0 for v in again["f"].to_pylist()],
                       [v or 0 for v in made["f"].to_pylist()], atol=1e-6)  # fmt: skip


BAD = {
    "one row": ("a,b\n1,x\n", {}, "one row", "more rows"),
    "no rows": ("a,b\n", {}, "no rows below its header", "data.path"),
    "endless": ("a,b\n1,x\n2,y\ninf,x\n", {}, "column 'a' holds 'inf' in row 4", "write a number"),
    "text": ("a,b\n1,x\n2,x\n3,x\n4,x\nold,y\n", {}, "column 'a' holds 'old' in row 6", "data.categories=[a]"),
    "ragged": ("a,b\n1,x\n2,y,z\n", {}, "row 3 has 3 fields", "data.on_bad=skip"),
    "blank rows": ("a,b\n\n1,x\n\n\n2,x\ninf,x\n", {}, "column 'a' holds 'inf' in row 7", "write a number"),
    "ragged below blank rows": ("\na,b\n\n1,x\n2,y,z\n", {}, "row 5 has 3 fields", "data.on_bad=skip"),
    "separator": ("a;b\n1;x\n2;y\n", {}, "divided by semicolons", "commas"),
    "no target": ("a,b\n1,x\n2,y\n", {"target": "c"}, "no column 'c', the columns are a, b", "data.target=COLUMN"),
    "dropped": ("a,b\n1,x\n2,y\n", {"drop": ("z",)}, "no column 'z'", "data.drop=[COLUMN, ...]"),
    "names": (
        "name,b\n" + "".join(f"person {i},{i % 3}\n" for i in range(60)),
        {},
        "column 'name' holds 60 different texts in 60 rows",
        "data.drop=[name]",
    ),
    "empty column": ("a,b\n,1\n,2\n", {}, "column 'a' is empty", "data.drop=[a]"),
    "unnamed": ("a,,b\n1,2,3\n1,2,3\n", {}, "column 2 has no name", "name it"),
    "wide": (",".join(f"c{i}" for i in range(10_000)) + "\n" + "1," * 9_999 + "1\n", {}, "10,000 columns", "save"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_table_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    content, settings, what, fix = BAD[name]
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(DataError) as error:
        opened(tmp_path / "bad.csv", **settings)
    assert what in error.value.what
    assert fix in error.value.fix


def test_a_target_that_is_empty_somewhere_is_told_and_may_be_skipped(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "y"], [[i, "a" if i % 2 else "b"] for i in range(30)] + [[3, ""]])
    with pytest.raises(DataError, match="the target 'y' is empty in 1 row, first in row 32"):
        opened(path, predicts="target", target="y")
    data = opened(path, predicts="target", target="y", on_bad="skip", valid_fraction=0)
    assert len(data.train) == 30


@pytest.mark.parametrize(("value", "told"), [("a", "one class, 'a'"), ("0.1", "one number, '0.1'")])
def test_a_target_of_one_value_is_refused(value: str, told: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "y"], [[i / 2, value] for i in range(30)])
    with pytest.raises(DataError, match=f"the target 'y' holds {told}"):
        opened(path, predicts="target", target="y")


@pytest.mark.parametrize("values", [[0.5, 1.25, "-"], [1, 2, "n/a"]], ids=["numbers", "classes"])
def test_marks_for_missing_numbers_are_no_targets(values: list[object], tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "y"], [[i, values[i % 3]] for i in range(60)])
    with pytest.raises(DataError, match="the target 'y' is empty in 20 rows, first in row 4"):
        opened(path, predicts="target", target="y")
    data = opened(path, predicts="target", target="y", on_bad="skip", valid_fraction=0)
    assert len(data.train) == 40
    assert data.spec.names == (("1", "2") if values[0] == 1 else ())


def test_rows_without_a_target_that_were_skipped_are_skipped_again(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "y"], [[i, "" if i % 7 == 0 else "ab"[i % 2]] for i in range(100)])
    settings: Any = {"predicts": "target", "target": "y", "on_bad": "skip"}
    data = opened(path, **settings)
    config = DataConfig(name="path", path=PathText(str(path)), drop=(), target="y", on_bad="skip")
    seen = open_data(config, predicts="target", seen_by=SeenBy(data.spec, (), hold_out_all=False))
    assert len(seen.train) == len(data.train)
    assert seen.fingerprint == data.fingerprint


def test_all_columns_of_texts_are_named_at_once(tmp_path: Path) -> None:
    rows = [[f"text {i}", i / 2, f"other {i}"] for i in range(60)]
    with pytest.raises(DataError) as caught:
        opened(table(tmp_path / "a.csv", ["a", "x", "b"], rows))
    assert caught.value.fix == "type 'data.drop=[a,b]'"


def test_names_that_end_like_id_are_no_identifiers(tmp_path: Path) -> None:
    names = ["id", "user_id", "userId", "ID", "paid", "valid", "humid"]
    rows = [[7 * i] * len(names) for i in range(60)]
    found = columns_of(table(tmp_path / "a.csv", names, rows))
    assert [column.kind for column in found.values()] == ["identifier"] * 4 + ["number"] * 3


def test_rows_are_numbered_on_from_the_last_row_also_where_it_is_held_out(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["row", "x"], [[i, i * i % 7] for i in range(100)])
    for seed in range(8):
        column = opened(path, split_seed=seed).spec.columns[0]
        assert (column.kind, column.last) == ("identifier", 99)


def test_a_column_of_one_number_stays_in_reach(tmp_path: Path) -> None:
    """The deviation of 0.1, a hundred times, is 3e-17 and not 0."""
    path = table(tmp_path / "a.csv", ["x", "y"], [[0.1, "ab"[i % 2]] for i in range(100)])
    assert columns_of(path)["x"].deviation == 1


@pytest.mark.parametrize("step", ["0.07", "0.28", "0.55", "25"])
def test_numbers_are_multiples_of_a_step(step: str, tmp_path: Path) -> None:
    places = len(step.partition(".")[2])
    rows = [[f"{i * float(step):.{places}f}"] for i in range(1, 40)]
    assert columns_of(table(tmp_path / "a.csv", ["x"], rows))["x"].step == pytest.approx(float(step))


def test_a_number_that_is_too_large_for_one_is_infinite(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x"], [[i] for i in range(30)] + [["1e999"]])
    with pytest.raises(DataError, match="column 'x' holds '1e999' in row 32"):
        columns_of(path)


def test_rows_of_groups_are_normalised_hardened_and_drawn_by_their_probabilities(tmp_path: Path) -> None:
    data = opened(mixed(tmp_path / "a.csv"), valid_fraction=0)
    rows, x = Rows(data.spec), data.train.fetch(torch.arange(400)).x
    assert rows.sizes == groups(data.spec.columns)
    logits = torch.randn(400, sum(rows.sizes))
    expected = torch.cat([part.log_softmax(1) for part in logits.split(rows.sizes, dim=1)], dim=1)
    assert torch.allclose(rows.log_softmax(logits), expected, atol=1e-6)
    _, own = rows.split(x)
    assert torch.equal(rows.hardened(own + 0.1 * torch.rand_like(own)), own)
    there = rows.there(x)
    score = next(p for p in layout(data.spec.columns) if data.spec.columns[p.column].name == "score")
    assert score.group is not None
    assert torch.equal(there[:, score.number], x[:, score.group.start])
    probabilities = rows.log_softmax(logits[:1]).exp().expand(20_000, -1)
    drawn = rows.drawn(probabilities.log(), torch.randn(20_000, sum(rows.sizes)))
    assert torch.allclose(drawn.mean(0), probabilities[0], atol=0.02)


def test_filling_a_table_leaves_all_else_byte_for_byte() -> None:
    text = 'a,"b ""x""",c\r\n1,,"x, y"\r\n\r\n,"",3\r\n4,5,6'
    same = "".join(filled_text(text, ",", lambda row, column: None))
    assert same == text
    made = "".join(
        filled_text(text, ",", lambda row, column: {(0, 1): "new, one", (1, 0): "7", (1, 1): "8"}.get((row, column)))
    )
    assert made == 'a,"b ""x""",c\r\n1,"new, one","x, y"\r\n\r\n7,8,3\r\n4,5,6'


def test_layout_places_numbers_before_groups() -> None:
    columns = (
        Column("a", "category", values=("x", "y")),
        Column("b", "number", missing=""),
        Column("id", "identifier", role="left_out"),
        Column("c", "date"),
        Column("y", "category", role="target", values=("p", "q")),
    )
    places = layout(columns)
    assert [(p.column, p.number, p.group) for p in places] == [
        (0, None, slice(2, 4)),
        (1, 0, slice(4, 6)),
        (3, 1, None),
    ]
    assert width(columns) == 6
    assert Rows(Spec(kind="real", shape=(6,), modality="table", columns=columns)).elements == 4


def test_a_column_of_numbers_with_one_text_is_no_column_of_texts(tmp_path: Path) -> None:
    rows = [[f"{0.37 * i:.2f}", i % 7, ("low", "high")[i % 2]] for i in range(60)]
    rows[5][0] = "hello"
    path = table(tmp_path / "a.csv", ["a", "b", "kind"], rows)
    assert modality_of("path", str(path)) == "table"
    with pytest.raises(DataError, match="column 'a' holds 'hello' in row 7, where most are numbers"):
        opened(path, predicts="target", target="kind")


def test_a_date_is_the_same_with_midnight_and_without(tmp_path: Path) -> None:
    days = [f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(60)]
    texts = {"day": days, "moment": [f"{day} 00:00:00" for day in days], "time": [f"{day} 07:30:00" for day in days]}
    data = {name: opened(table(tmp_path / f"{name}.csv", ["d", "n"], [[t, i / 3] for i, t in enumerate(own)]))
            for name, own in texts.items()}  # fmt: skip
    for name, other in (("day", "moment"), ("moment", "day"), ("time", "day")):
        column = data[name].spec.columns[0]
        assert parser_of(column)(texts[other][5]) == parser_of(data[other].spec.columns[0])(texts[other][5])
        assert parser_of(column)("2024-13-01") is None


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv"])
def test_a_spreadsheet_is_told_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        file.writestr("xl/workbook.xml", "<xml/>" * 50)
    with pytest.raises(DataError, match=r"spreadsheet.* save the table as CSV"):
        opened(tmp_path / name, predicts="target", target="y")


def test_numbers_with_separators_of_thousands_are_told_how_to_be_written(tmp_path: Path) -> None:
    rows = [[f"{1371 * (i + 1):,}", i % 2] for i in range(60)]
    path = table(tmp_path / "a.csv", ["price", "kind"], rows)
    assert modality_of("path", str(path)) == "table"
    with pytest.raises(DataError, match=r"column 'price' .* like '1,371' .* - write numbers as 12345\.6"):
        opened(path, predicts="target", target="kind")


def test_rows_of_another_number_of_fields_are_counted_where_they_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "1.5,x\n2,y,z\n\n2.5,y\n3\n" * 4 + "1,x\n")
    assert "left out: 8 rows of another number of fields" in opened(path, on_bad="skip").notes


def test_decimals_beyond_a_double_are_not_made_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = table(tmp_path / "a.csv", ["a", "b"], [[repr(float(rng.random())), repr(float(i))] for i in range(50)])
    values = rng.random(20)
    assert number_texts(values, columns_of(path)["a"]) == [repr(float(value)) for value in values]
