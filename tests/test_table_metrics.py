"""Figures of generated and filled-in tables are what SciPy, counting and comparing each with each give."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, pearsonr
from threadpoolctl import threadpool_limits

from genai.metrics import tables
from genai.metrics.tables import Table, closest_share, column_errors, copied_share, pair_errors

pytestmark = pytest.mark.usefixtures("one_thread")
sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "bench"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of gradient boosting, whose threads wait for each other at each of many small steps."""
    import table_figures  # noqa: F401  what it has loaded can be limited

    with threadpool_limits(1):
        yield


def rows(count: int, seed: int, missing: float = 0.2) -> dict[str, Any]:
    """Two numbers that go together, one in steps, two categories of which one goes with the numbers."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=count)
    found = {
        "a": a,
        "b": 50 + 9 * a + rng.normal(size=count),
        "steps": rng.integers(0, 4, count).astype(float),
        "kind": np.where(a + rng.normal(size=count) > 0, "high", "low"),
        "other": rng.choice(["x", "y", "rather long"], count),
    }
    for column in found.values():
        column[rng.random(count) < missing] = np.nan if column.dtype.kind == "f" else ""
    return found


def variation(one: Sequence[Any], other: Sequence[Any]) -> float:
    a, b = Counter(one), Counter(other)
    return sum(abs(a[kind] / len(one) - b[kind] / len(other)) for kind in {*a, *b}) / 2


def test_errors_of_columns_are_the_distances_of_kolmogorov_and_smirnov_and_total_variation() -> None:
    real, made = rows(300, 0), rows(217, 1, missing=0.05)
    made["a"][:9] = 40.0
    made["other"][:20] = "z"
    found = column_errors(real, made)
    for name in ("a", "b", "steps"):  # what is missing lies above all
        one, other = (np.nan_to_num(table[name], nan=1e9) for table in (real, made))
        assert found[name] == pytest.approx(ks_2samp(one, other).statistic, abs=1e-12), name
    for name in ("kind", "other"):
        assert found[name] == pytest.approx(variation(real[name].tolist(), made[name].tolist())), name


def test_a_column_with_fewer_missing_values_is_no_copy_of_it() -> None:
    real = {"a": np.array([1.0, 2.0, np.nan, np.nan]), "k": np.array(["x", "y", "", ""])}
    made = {"a": np.array([1.0, 2.0, 1.0, 2.0]), "k": np.array(["x", "y", "x", "y"])}
    assert column_errors(real, made) == {"a": 0.5, "k": 0.5}


def test_errors_of_pairs_are_halved_differences_of_correlations_or_variations_of_the_joint_table() -> None:
    real, made = rows(400, 2), rows(310, 3)
    made["b"] = -made["b"]
    made["other"][:20] = "z"
    found = pair_errors(real, made)
    assert len(found) == 10

    both = [~np.isnan(t["a"]) & ~np.isnan(t["b"]) for t in (real, made)]
    r = [pearsonr(t["a"][there], t["b"][there]).statistic for t, there in zip((real, made), both, strict=True)]
    assert found["a", "b"] == pytest.approx(abs(r[0] - r[1]) / 2)
    assert found["a", "b"] > 0.9

    joint = [list(zip(t["kind"].tolist(), t["other"].tolist(), strict=True)) for t in (real, made)]
    assert found["kind", "other"] == pytest.approx(variation(*joint))

    tenths = np.nanquantile(real["a"], np.arange(1, 10) / 10)

    def cut(value: float) -> int:
        return -1 if np.isnan(value) else sum(edge <= value for edge in tenths)

    joint = [[(cut(v), k) for v, k in zip(t["a"], t["kind"].tolist(), strict=True)] for t in (real, made)]
    assert found["a", "kind"] == pytest.approx(variation(*joint))


def test_shuffled_columns_are_as_before_and_their_pairs_are_not() -> None:
    real = rows(500, 4)
    assert max(column_errors(real, real).values()) == max(pair_errors(real, real).values()) == 0
    rng = np.random.default_rng(0)
    shuffled = {name: rng.permutation(column) for name, column in real.items()}
    assert max(column_errors(real, shuffled).values()) == 0
    pairs = pair_errors(real, shuffled)
    assert pairs["a", "b"] > 0.4
    assert pairs["b", "kind"] > 0.2


def test_a_column_without_values_or_without_variation_is_measured() -> None:
    real = {"a": np.arange(4.0), "b": np.arange(4.0), "k": np.array(list("xxyy"))}
    flat = {"a": np.ones(4), "b": np.full(4, np.nan), "k": np.array(list("xxyy"))}
    assert column_errors(real, flat) == {"a": 0.5, "b": 1.0, "k": 0.0}
    assert pair_errors(real, flat)["a", "b"] == 0.5  # a correlation of 1 that is gone
    assert pair_errors(flat, real)["b", "k"] == 1.0


def gower(one: dict[str, Any], other: dict[str, Any], spans: dict[str, float]) -> float:
    def gap(name: str) -> float:
        a, b = one[name], other[name]
        if isinstance(a, str):
            return float(a != b)
        if np.isnan(a) or np.isnan(b):
            return float(np.isnan(a) != np.isnan(b))
        return min(abs(a - b) / spans[name], 1.0)

    return sum(map(gap, one))


def records(table: Table) -> list[dict[str, Any]]:
    columns = [column.tolist() for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("numeric", [True, False], ids=["mixed", "categories"])
def test_rows_nearer_to_the_training_set_are_those_of_each_compared_with_each(
    numeric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With categories of which neither set knows, and with distances that are often equal."""
    train, held_out, made = rows(60, 5), rows(60, 6), rows(90, 7)
    made["b"] *= 1.5
    made["other"][:9], held_out["other"][:9] = "new", "newer"
    if not numeric:
        train, held_out, made = ({k: t[k] for k in ("kind", "other")} for t in (train, held_out, made))
    spans = {name: np.nanmax(c) - np.nanmin(c) for name, c in train.items() if c.dtype.kind == "f"}
    score = 0.0
    for row in records(made):
        near, far = (min(gower(row, one, spans) for one in records(t)) for t in (train, held_out))
        score += 0.5 if abs(near - far) < 1e-5 else near < far
    assert closest_share(made, train, held_out) == pytest.approx(score / 90)
    monkeypatch.setattr(tables, "_CELLS_AT_ONCE", 130)  # two rows at a time
    assert closest_share(made, train, held_out) == pytest.approx(score / 90)


def test_copies_are_near_to_what_they_were_copied_from_and_new_rows_to_neither() -> None:
    train, held_out, new = rows(2000, 8), rows(500, 9), rows(1500, 10)
    some = {name: column[:500] for name, column in train.items()}
    assert closest_share(some, some, held_out) > 0.97
    assert closest_share(held_out, train, held_out) < 0.03
    assert closest_share(new, train, held_out) == pytest.approx(0.5, abs=0.04)


def test_a_date_in_seconds_keeps_its_distances() -> None:
    """In single precision seconds since 1970 are 128 apart."""
    at = 1.7e9
    train, held_out = {"at": np.array([at, at + 1000])}, {"at": np.array([at + 30, at + 970])}
    assert closest_share({"at": np.array([at + 10, at + 999, at + 20, at + 960])}, train, held_out) == 0.5


def test_copies_are_rows_that_equal_a_training_row_everywhere() -> None:
    train = rows(50, 11)
    made = {name: np.concatenate([column[:5], column[5:20]]) for name, column in train.items()}
    made["a"] = np.where(np.arange(20) < 5, made["a"], 99.0)
    assert np.isnan(made["a"][:5]).any() or np.isnan(made["b"][:5]).any()  # missing at the same place is the same
    assert copied_share(made, train) == 0.25
    assert copied_share(dict(reversed(made.items())), train) == 0.25


def write(path: Path, table: Table) -> Path:
    columns = [["" if v != v else v for v in column.tolist()] for column in table.values()]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(table), *zip(*columns, strict=True)])
    return path


def figures_of(printed: str) -> dict[str, dict[str, float]]:
    """By row and heading, of a table in Markdown."""
    head, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")
    ]
    numbers = ([float(cell.replace(",", "")) for cell in line[1:]] for line in lines)
    return {line[0]: dict(zip(head[1:], row, strict=True)) for line, row in zip(lines, numbers, strict=True)}


def test_the_table_of_figures_tells_good_rows_from_bad_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from table_figures import print_figures

    train, test, fresh = rows(500, 12), rows(100, 13), rows(500, 14)
    rng = np.random.default_rng(0)
    shuffled = {name: rng.permutation(column) for name, column in train.items()}
    real = write(tmp_path / "train.csv", train), write(tmp_path / "test.csv", test)
    files = {name: write(tmp_path / f"{name}.csv", t) for name, t in (("fresh", fresh), ("shuffled", shuffled))}
    print_figures(*real, files | {"copy": real[0]}, ["kind", "b"])
    found = figures_of(capsys.readouterr().out)
    assert list(found) == ["real, held out", "fresh", "shuffled", "copy"]
    held_out, good, bad, copy = found.values()
    assert copy["copies %"] == 100 > good["copies %"]
    assert copy["kind accuracy"] == held_out["kind accuracy"]
    assert copy["b R2"] == held_out["b R2"]
    assert bad["b R2"] < 0.2 < 0.5 < good["b R2"]
    assert bad["kind AUC"] < 0.6 < good["kind AUC"]
    assert bad["column error %"] == 0 < good["column error %"]
    assert bad["pair error %"] > 1.5 * good["pair error %"]
    assert bad["detection AUC"] > 0.7
    assert good["detection AUC"] == pytest.approx(0.5, abs=0.1)
    assert copy["nearer to training rows %"] > 55 > good["nearer to training rows %"] > 45


class Imputing:
    """A table with holes in it, and what the script tells of such that were filled in."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        full = {name: column for name, column in rows(300, 15, missing=0.05).items() if name != "steps"}
        full["like a"] = full["a"] + np.random.default_rng(0).normal(size=300) / 9
        self.full, self.holes = write(folder / "full.csv", full), folder / "holes.csv"

    def told(self, *more: str) -> tuple[int, str]:
        import impute_figures as script

        self.monkeypatch.setattr(sys, "argv", ["impute_figures.py", str(self.full), str(self.holes), *more])
        try:
            script.main()
        except SystemExit as ended:
            if ended.code not in (0, 1):
                raise
            return ended.code, self.capsys.readouterr().out
        raise AssertionError("it did not say whether all was well")

    def cells(self, path: Path) -> np.ndarray:
        with path.open(newline="") as file:
            return np.array(list(csv.reader(file)), dtype="<U40")

    def filled(self, name: str, cells: np.ndarray) -> str:
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(cells.tolist())
        return f"{name}={self.folder / name}.csv"


@pytest.fixture
def imputing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Imputing:
    return Imputing(tmp_path, capsys, monkeypatch)


@pytest.mark.filterwarnings("ignore:.IterativeImputer. Early stopping")
def test_a_fifth_of_the_cells_is_removed_and_simple_ways_guess_them_better_than_the_mean(imputing: Imputing) -> None:
    code, printed = imputing.told("--remove", "0.2", "--baselines", str(imputing.folder / "ways"))
    before, holes = imputing.cells(imputing.full), imputing.cells(imputing.holes)
    there = before != ""
    assert ((holes == before) | (holes == ""))[there].all()
    assert (holes == "")[there].mean() == pytest.approx(0.2, abs=0.03)
    found = figures_of(printed)
    assert code == 0
    assert found["b"]["explained"] > 0.8 > 0.1 > found["other"]["explained"]
    for way, bound in (("knn", 0.95), ("iterative", 0.6), ("forest", 0.6)):
        assert found["b"][way] < bound * found["b"]["mean"], way
        filled = imputing.cells(imputing.folder / "ways" / f"{way}.csv")
        assert (filled != "").all(), way
        assert (filled == holes)[holes != ""].all(), way
    assert "that were there" not in printed


def test_of_a_folder_of_draws_the_means_and_the_most_frequent_categories_are_judged(imputing: Imputing) -> None:
    imputing.told("--remove", "0.2")
    full = imputing.cells(imputing.full)
    number, category = full[0].tolist().index("a"), full[0].tolist().index("other")
    folder = imputing.folder / "draws"
    folder.mkdir()
    there = np.flatnonzero(full[1:, number] != "") + 1
    for name, off in (("00000", -3.0), ("00001", 0.0), ("00002", 3.0)):
        drawn = full.copy()
        drawn[there, number] = [repr(float(text) + off) for text in full[there, number]]
        if off == 0:
            drawn[1:, category] = "wrong"
        imputing.filled(f"draws/{name}", drawn)
    found = figures_of(imputing.told(f"mean={folder}", f"one={folder / '00000.csv'}")[1])
    assert found["a"]["mean"] == 0 < found["a"]["one"]
    assert found["other"]["mean"] == 0

    (imputing.folder / "empty").mkdir()
    with pytest.raises(SystemExit, match="there is no table"):
        imputing.told(f"empty={imputing.folder / 'empty'}")


def test_cells_are_judged_where_they_were_removed_and_watched_elsewhere(imputing: Imputing) -> None:
    """Of the table that had no holes, and of the same with one column spoilt beside the holes."""
    imputing.told("--remove", "0.2")
    full, holes = imputing.cells(imputing.full), imputing.cells(imputing.holes)
    place = full[0].tolist().index("other")
    kept = np.flatnonzero(holes[1:, place] != "") + 1
    spoilt = full.copy()
    spoilt[kept, place] = "spoilt"
    code, printed = imputing.told(imputing.filled("good", full), imputing.filled("spoilt", spoilt))
    assert code == 0
    assert all(row["good"] == row["spoilt"] == 0 for row in figures_of(printed).values())
    assert f"spoilt: {len(kept)} cells that were there are not the same" in printed
    assert "good: more than 1 % worse than the mean: nowhere; no better than it" in printed

    with pytest.raises(SystemExit, match=r"column '.*' is empty still in row \d"):
        imputing.told(imputing.filled("empty", holes))

    removed = np.flatnonzero((holes[1:, place] == "") & (full[1:, place] != "")) + 1
    wrong = full.copy()
    wrong[removed[::2], place] = "wrong"
    wrong[1:, 0] = "-9"
    code, printed = imputing.told(imputing.filled("wrong", wrong))
    assert code == 1
    share = len(removed[::2]) / len(removed)
    assert figures_of(printed)["other"]["wrong"] == pytest.approx(share, abs=6e-4)
    assert "wrong: more than 1 % worse than the mean: a" in printed
    numbers = np.array([float(a) for a, h in zip(full[1:, 0], holes[1:, 0], strict=True) if a and not h])
    deviation = np.array([float(a) for a in full[1:, 0] if a]).std()
    assert figures_of(printed)["a"]["wrong"] == pytest.approx(
        np.sqrt(np.mean((numbers + 9) ** 2)) / deviation, abs=6e-4
    )


def test_figures_of_several_draws_of_the_holes_are_their_means(imputing: Imputing) -> None:
    printed = []
    full = imputing.cells(imputing.full)
    full[1:, 0] = full[1, 0]  # one guess for all
    for draw in range(2):
        imputing.filled(f"guess {draw}", full)
    imputing.holes = imputing.folder / "holes {}.csv"
    guess = f"guess={imputing.folder / 'guess {}.csv'}"
    _, both = imputing.told("--remove", "0.2", "--draws", "2", guess)
    for draw in range(2):
        imputing.holes = imputing.folder / f"holes {draw}.csv"
        printed.append(figures_of(imputing.told(guess.replace("{}", str(draw)))[1])["a"])
    assert printed[0]["mean"] != printed[1]["mean"]
    for name in ("mean", "guess"):
        means = (printed[0][name] + printed[1][name]) / 2
        assert figures_of(both)["a"][name] == pytest.approx(means, abs=1.1e-3)


def test_the_peers_script_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import table_peers as script

    table = write(tmp_path / "table.csv", rows(300, 16))
    monkeypatch.setattr(script, "peers", lambda *given: {})
    monkeypatch.setattr(sys, "argv", ["table_peers.py", str(table), str(tmp_path / "out"), "--ours", "no_such_model"])
    script.main()
    printed = capsys.readouterr().out
    assert "own_no_such_model is left out: error: " in printed
    assert figures_of(printed)["real, held out"]["rows"] == 30
    parts = [(tmp_path / "out" / name).read_text().splitlines()[1:] for name in ("train.csv", "test.csv")]
    assert sorted(parts[0] + parts[1]) == sorted(table.read_text().splitlines()[1:])
