"""Rows drawn by what is known of them, tables filled in, training sets with drawn samples: through the same verbs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genai import api
from genai.console import Console
from genai.data.packaged import files
from genai.errors import ConfigError, DataError, OutputError
from harness import config_of, forked, train

PENGUINS = files("genai.data.builtin") / "penguins.csv"
QUIET = Console(quiet=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A diffusion of all columns, one that is told the species, and a copula."""
    root = tmp_path_factory.mktemp("trained")
    small = ["trainer.max_minutes=null", "trainer.max_steps=60", "net.width=64", "sampling.steps=8", "sampling.draws=4"]
    runs = {
        "diffusion": config_of("diffusion", root / "a", "data=penguins", "data.target=null", *small),
        "told": config_of("diffusion", root / "b", "data=penguins", *small),
        "copula": config_of("copula", root / "c", "data.target=null"),
        "vae": config_of("vae", root / "d", "data=penguins", *small[:3]),
    }
    for config in runs.values():
        assert forked(lambda config=config: train(config)) == 0  # type: ignore[misc]
    return {name: Path(str(config.run.dir)) for name, config in runs.items()}


def test_samples_have_the_columns_and_the_values_of_the_table(trained: dict[str, Path], tmp_path: Path) -> None:
    for name, run in trained.items():
        made = rows_of(api.sample(run, count=50, out=tmp_path / name, console=QUIET) / "samples.csv")
        real = rows_of(Path(str(PENGUINS)))
        assert list(made[0]) == list(real[0])
        for column in ("species", "island", "sex", "year"):
            assert {row[column] for row in made} <= {row[column] for row in real}
        assert all(row["body_mass_g"] == "" or float(row["body_mass_g"]) % 25 == 0 for row in made)
        assert (tmp_path / name / "overview.png").is_file()


@pytest.mark.parametrize("name", ["diffusion", "copula"])
def test_what_a_label_says_of_columns_holds_in_every_row(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    asked = ["species=Gentoo,sex=female", "body_mass_g=4000"]
    made = rows_of(api.sample(trained[name], labels=asked, count=20, out=tmp_path / "s", console=QUIET) / "samples.csv")
    assert all((row["species"], row["sex"]) == ("Gentoo", "female") for row in made[:20])
    assert all(row["body_mass_g"] == "4000" for row in made[20:])
    assert len({row["bill_length_mm"] for row in made}) > 5


def test_a_class_of_the_target_may_be_named_by_its_column(trained: dict[str, Path], tmp_path: Path) -> None:
    for name in ("told", "vae"):
        out = tmp_path / name
        made = rows_of(
            api.sample(trained[name], labels=["species=Gentoo"], count=9, out=out, console=QUIET) / "samples.csv"
        )
        assert [row["species"] for row in made] == ["Gentoo"] * 9


def test_classes_are_drawn_as_often_as_they_are_met(trained: dict[str, Path], tmp_path: Path) -> None:
    made = rows_of(api.sample(trained["vae"], count=2000, out=tmp_path / "s", console=QUIET) / "samples.csv")
    share = np.mean([row["species"] == "Chinstrap" for row in made])
    assert share == pytest.approx(68 / 344, abs=0.03)


def with_holes(path: Path) -> tuple[Path, list[dict[str, str]]]:
    """A fifth of the cells empty, beside those that already are."""
    random = np.random.RandomState(0)
    real = rows_of(Path(str(PENGUINS)))
    holed = [{name: "" if random.rand() < 0.2 else text for name, text in row.items()} for row in real]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, real[0], lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(holed)
    return path, holed


@pytest.mark.parametrize("name", ["diffusion", "copula"])
def test_imputing_fills_every_hole_and_touches_nothing_else(
    name: str, trained: dict[str, Path], tmp_path: Path
) -> None:
    path, holed = with_holes(tmp_path / "holes.csv")
    folder = api.sample(trained[name], task="impute", input=path, out=tmp_path / "s", console=QUIET)
    made = rows_of(folder / "samples.csv")
    assert all(text for row in made for text in row.values())
    for before, after in zip(holed, made, strict=True):
        assert all(after[key] == text for key, text in before.items() if text)
    assert (folder / "samples.csv").read_bytes().count(b"\r\n") == 345
    drawn = api.sample(trained[name], task="impute", input=path, count=3, out=tmp_path / "d", console=QUIET)
    assert json.loads((drawn / "samples.json").read_text())["files"] == ["00000.csv", "00001.csv", "00002.csv"]
    assert rows_of(drawn / "00000.csv") != rows_of(drawn / "00001.csv")
    again = api.sample(trained[name], task="impute", input=path, out=tmp_path / "again", console=QUIET)
    assert (again / "samples.csv").read_bytes() == (folder / "samples.csv").read_bytes()


def test_rows_are_added_to_a_table_in_its_own_order_of_columns(trained: dict[str, Path], tmp_path: Path) -> None:
    real = rows_of(Path(str(PENGUINS)))
    path = tmp_path / "train.csv"
    names = [*reversed(real[0]), "note"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "note": "own"} for row in real)
    folder = api.sample(trained["told"], append_to=path, per_class=7, out=tmp_path / "s", console=QUIET)
    made = rows_of(folder / "train.csv")
    assert (folder / "train.csv").read_bytes().startswith(path.read_bytes())
    assert list(made[0]) == names
    added = made[len(real) :]
    assert [row["species"] for row in added] == [s for s in ("Adelie", "Chinstrap", "Gentoo") for _ in range(7)]
    assert all(row["note"] == "" for row in added)


def test_a_training_set_with_drawn_samples_is_never_written_over_a_file(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own, other = tmp_path / "train.csv", tmp_path / "s" / "train.csv"
    own.write_bytes(Path(str(PENGUINS)).read_bytes())
    other.parent.mkdir()
    other.write_text("notes")
    for folder, path in ((tmp_path, own), (tmp_path / "s", own), (tmp_path, "~/train.csv")):
        with pytest.raises(OutputError, match="would be overwritten"):
            api.sample(trained["told"], append_to=path, per_class=2, out=folder, console=QUIET)
    assert own.read_bytes() == Path(str(PENGUINS)).read_bytes()
    assert other.read_text() == "notes"


def test_a_label_may_name_a_category_with_commas(tmp_path: Path) -> None:
    rows = "".join(f'"{("a, b", "c")[i % 2]}",{i % 7}.5\n' for i in range(60))
    (tmp_path / "a.csv").write_text("k,n\n" + rows)
    run = tmp_path / "run"
    train(config_of("copula", run, f"data.path={tmp_path / 'a.csv'}", "data.target=null"))
    made = api.sample(run, labels=["k=a, b,n=3.5"], count=4, out=tmp_path / "s", console=QUIET) / "samples.csv"
    assert rows_of(made) == [{"k": "a, b", "n": "3.5"}] * 4


def test_rows_are_added_to_a_table_in_utf_16_too(trained: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(Path(str(PENGUINS)).read_text(encoding="utf-8"), encoding="utf-16")
    folder = api.sample(trained["told"], append_to=path, per_class=2, out=tmp_path / "s", console=QUIET)
    assert len(rows_of(folder / "train.csv")) == len(rows_of(Path(str(PENGUINS)))) + 6


def test_pictures_are_added_to_folders_of_classes(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(random.randint(0, 255, (8, 8), np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    config = config_of(
        "vae", tmp_path / "run", f"data.path={tmp_path / 'set'}", "trainer.max_minutes=null", "trainer.max_steps=2"
    )
    assert forked(lambda: train(config)) == 0
    folder = api.sample(tmp_path / "run", append_to=tmp_path / "set", per_class=3, out=tmp_path / "s", console=QUIET)
    for name in ("cat", "dog"):
        files = sorted(path.name for path in (folder / name).iterdir())
        assert len(files) == 15
        assert files[-3:] == [f"generated_0000{i}.png" for i in range(3)]
        assert (folder / name / "3.png").read_bytes() == (tmp_path / "set" / name / "3.png").read_bytes()


def test_what_a_model_of_a_table_cannot_do_is_told(trained: dict[str, Path], tmp_path: Path) -> None:
    path, _ = with_holes(tmp_path / "holes.csv")

    def told(name: str, error: type[Exception], **asked: object) -> str:
        with pytest.raises(error) as caught:
            api.sample(trained[name], out=tmp_path / "s", console=QUIET, **asked)  # type: ignore[arg-type]
        return str(caught.value)

    assert "which training did not see" in told("diffusion", ConfigError, labels=["sex=robot"])
    assert "unknown column 'weight'" in told("diffusion", ConfigError, labels=["weight=3"])
    assert "expected a number" in told("diffusion", ConfigError, labels=["body_mass_g=heavy"])
    for nothing in ("nan", "", "NA"):
        assert "'body_mass_g' has no value" in told("diffusion", ConfigError, labels=[f"body_mass_g={nothing}"])
    too_heavy = told("diffusion", ConfigError, labels=["body_mass_g=90000"])
    assert "'body_mass_g' lies between 2700.0 and 6300.0 in what was learned - type body_mass_g=6300.0" in too_heavy
    assert too_heavy == told("copula", ConfigError, labels=["body_mass_g=90000"])
    lacking = told("vae", ConfigError, labels=["sex=male"])
    assert "fills nothing in" in lacking
    assert "models that do: diffusion, copula" in lacking
    assert "which the model must be told" in told("told", DataError, task="impute", input=path)
    assert "no cell of the table is empty" in told("diffusion", DataError, task="impute", input=full(tmp_path))
    assert "--input FILE" in told("diffusion", ConfigError, task="impute")
    assert "--per-class" in told("diffusion", ConfigError, append_to=path, per_class=3)


def full(folder: Path) -> Path:
    rows = [row for row in rows_of(Path(str(PENGUINS))) if all(row.values())]
    with (folder / "full.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "full.csv"


def test_a_column_that_a_label_names_twice_is_refused(trained: dict[str, Path]) -> None:
    for name in ("diffusion", "told"):
        with pytest.raises(ConfigError, match="'species' is given twice"):
            api.sample(trained[name], labels=["species=Gentoo,species=Adelie"], count=3, console=QUIET)


def test_rows_by_a_label_lack_values_as_often_as_the_data_and_those_of_two_labels_are_not_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ["xy"[i] for i in rng.integers(2, size=600)]
    numbers = ["" if rng.random() < (0.8 if kind == "x" else 0.2) else f"{rng.normal():.2f}" for kind in kinds]
    words = ["" if rng.random() < 0.3 else "pqr"[rng.integers(3)] for _ in kinds]
    rows = zip(kinds, numbers, words, strict=True)
    (tmp_path / "a.csv").write_text("k,b,c\n" + "".join(f"{','.join(row)}\n" for row in rows))
    run = tmp_path / "run"
    train(config_of("copula", run, f"data.path={tmp_path / 'a.csv'}", "data.target=null"))
    made = rows_of(api.sample(run, labels=["k=x", "k=y"], count=400, out=tmp_path / "s", console=QUIET) / "samples.csv")
    lacking = [np.mean([row["b"] == "" for row in part]) for part in (made[:400], made[400:])]
    assert lacking[0] > 0.6  # a copula of categories is near, not exact
    assert 0.1 < lacking[1] < lacking[0] - 0.2
    assert 0.2 < np.mean([row["c"] == "" for row in made]) < 0.4
    assert np.mean([one["c"] == other["c"] for one, other in zip(made[:400], made[400:], strict=True)]) < 0.5


def test_filling_in_a_parquet_changes_its_empty_cells_alone(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng, n = np.random.default_rng(1), 200
    ids = [1215204795029698049 + 7 * i for i in range(n)]
    numbers = rng.normal(size=n).round(2).tolist()
    moments = pa.array([1_700_000_000_000 + 250 * i for i in range(n)], type=pa.timestamp("ms", tz="UTC"))
    columns = {
        "tweet_id": pa.array(ids),
        "b": pa.array([None if i % 5 == 0 else number for i, number in enumerate(numbers)]),
        "count": pa.array([None if i % 7 == 0 else round(3 * numbers[i]) for i in range(n)], type=pa.int32()),
        "at": moments,
        "kind": pa.array(["pq"[i % 2] for i in range(n)]).dictionary_encode(),
        "note": pa.array([[i] for i in range(n)]),
    }
    table = pa.table(columns)
    parquet.write_table(table, tmp_path / "a.parquet")
    drop = "data.drop=[note]"
    with pytest.raises(DataError, match=r"column 'note' holds values of type list.* - type 'data\.drop=\[note\]'"):
        train(config_of("copula", tmp_path / "run", f"data.path={tmp_path / 'a.parquet'}", "data.target=null"))
    train(config_of("copula", tmp_path / "run", f"data.path={tmp_path / 'a.parquet'}", "data.target=null", drop))
    names = {column["name"]: column for column in json.loads((tmp_path / "run/spec.json").read_text())["columns"]}
    assert (names["tweet_id"]["kind"], names["at"]["kind"]) == ("identifier", "date")
    out = api.sample(tmp_path / "run", task="impute", input=tmp_path / "a.parquet", out=tmp_path / "s", console=QUIET)
    made = parquet.read_table(next(out.glob("*.parquet")))
    assert made.schema.types == table.schema.types
    for name in ("tweet_id", "at", "kind", "note"):
        assert made[name].to_pylist() == table[name].to_pylist()
    for name in ("b", "count"):
        pairs = list(zip(made[name].to_pylist(), table[name].to_pylist(), strict=True))
        assert all(new is not None and old in (None, new) for new, old in pairs)
    without = tmp_path / "b.parquet"  # nor need it hold what is not learned
    parquet.write_table(table.drop_columns(["tweet_id", "note"]), without)
    out = api.sample(tmp_path / "run", task="impute", input=without, out=tmp_path / "t", console=QUIET)
    assert parquet.read_table(next(out.glob("*.parquet"))).column_names == ["b", "count", "at", "kind"]
    drawn = api.sample(tmp_path / "run", count=20, out=tmp_path / "u", console=QUIET)
    assert parquet.read_table(drawn / "samples.parquet").schema.field("at").type == pa.timestamp("ms", tz="UTC")
