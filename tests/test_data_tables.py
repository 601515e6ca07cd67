"""Parquet files and hub sets of pictures, written by pyarrow and by the library datasets itself."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genai.config import compose_train
from genai.data import hub as hub_module
from genai.data import listed as listed_module
from genai.data import sniff
from genai.data import tables as tables_module
from genai.data.check import check, describe
from genai.data.source import modality_of
from genai.data.tokens import read_tokenizer
from genai.errors import DataError, GenaiError, OutputError, SecurityError
from pictures import config, labels, one_line, opened, png, values

pa = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra [parquet] is not installed")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENAI_DATA", str(folder))
    return folder


def write(path: Path, numbers: range, *, names: list[str] | None = None, **changed: Any) -> Path:
    """A table as Hugging Face's library writes it, in row groups of 3 rows; `changed` replaces columns."""
    rows = [{"bytes": png(i), "path": f"{i}.png"} for i in numbers]
    columns = {"image": rows, "label": [i % 3 for i in numbers], "text": [f"number {i}" for i in numbers]}
    columns |= changed
    table = pa.table({key: value for key, value in columns.items() if value is not None})
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    if names is not None:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=3)
    return path


def refusal(path: Path | str, kind: type[GenaiError] = DataError, **settings: Any) -> GenaiError:
    with pytest.raises(kind) as caught:
        opened(path, **settings)
    one_line(caught.value)
    return caught.value


@pytest.mark.parametrize("where", ["memory", "cache"])
@pytest.mark.parametrize("stream", [False, True])
def test_pictures_labels_names_and_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, stream: bool
) -> None:
    path = write(tmp_path / "a.parquet", range(20), names=["cat", "dog", "ant", "bee"])
    if where == "cache":
        monkeypatch.setattr(tables_module, "HELD_BYTES", 0)
    if stream:
        monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    assert modality_of("path", str(path)) == "image"
    for _ in range(2):  # unpacked, and as it was kept
        data = opened(path)
        assert data.train.streams == stream
        assert values(data.train) == list(range(20))
        assert labels(data.train) == [i % 3 for i in range(20)]
        assert data.spec.cond["label"].names == ("cat", "dog", "ant", "bee")  # in the order of the table
        assert data.train.captions == tuple(f"number {i}" for i in range(20))  # type: ignore[attr-defined]
        note = "columns: pictures in 'image', labels in 'label' (4 classes), captions in 'text'"
        assert data.notes[0] == note
        assert any("unpacked" in note for note in data.notes) == (where == "cache")
    if stream:
        rows = pickle.loads(pickle.dumps(data.train.rows))  # type: ignore[attr-defined]
        assert rows.read(np.array([19, 2]))[:, 0, 0, 0].tolist() == [19, 2]


@pytest.mark.parametrize("layout", ["data/{part}-0000{i}-of-00002.parquet", "default/{part}/000{i}.parquet"])
def test_files_of_parts_as_the_hub_lays_them_out(tmp_path: Path, layout: str) -> None:
    for i in range(2):
        write(tmp_path / layout.format(part="train", i=i), range(i * 5, i * 5 + 5))
    write(tmp_path / layout.format(part="validation", i=0), range(50, 53))
    data = opened(tmp_path)
    assert data.valid is not None
    assert values(data.train) == list(range(10))
    assert values(data.valid) == [50, 51, 52]
    assert data.num_captions == 13


def test_columns_are_found_by_type_and_name(tmp_path: Path) -> None:
    content = [png(i) for i in range(3)]
    found = {}
    for name, columns in {
        "binary": {"id": [1, 2, 3], "png": content, "category": ["b", "a", "b"], "caption": ["x", "y", "z"]},
        "only": {"stuff": content, "note": ["x", "y", "z"]},
        "several": {"mask": content, "image": content, "y": [0, 1, 1]},
        "packed": {"image": content, "label": pa.array(["b", "a", "b"]).dictionary_encode()},
    }.items():
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        data = opened(tmp_path / f"{name}.parquet")
        assert values(data.train) == [0, 1, 2]
        found[name] = data.notes[0].removeprefix("columns: ")
    assert found == {
        "binary": "pictures in 'png', labels in 'category', captions in 'caption'",
        "only": "pictures in 'stuff'",
        "several": "pictures in 'image', labels in 'y'",
        "packed": "pictures in 'image', labels in 'label'",
    }


def test_unpacked_pictures_are_kept_and_made_again_when_damaged(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module, "HELD_BYTES", 0)
    path = write(tmp_path / "a.parquet", range(9))
    taken = []
    take = tables_module._take
    monkeypatch.setattr(tables_module, "_take", lambda *given: taken.append(1) or take(*given))
    for _ in range(2):
        assert values(opened(path).train) == list(range(9))
    assert len(taken) == 1
    (blob,) = (cache_folder / "index").glob("*.pictures")
    content = blob.read_bytes()
    assert content == b"".join(png(i) for i in range(9))
    blob.write_bytes(content[:-1])
    assert values(opened(path).train) == list(range(9))
    blob.unlink()
    assert values(opened(path).train) == list(range(9))
    write(path, range(20, 29))
    assert values(opened(path).train) == list(range(20, 29))
    assert len(taken) == 4
    assert len(list((cache_folder / "index").iterdir())) == 2  # nothing half-made is left
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "file"))
    error = refusal(path, OutputError)
    assert error.exit_code == 7
    assert "GENAI_DATA" in error.fix


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"label": [0, 1, 2, -1, 0, 1], "names": ["a", "b", "c"]},
            "label -1 of row 3 is out of range, expected 0 to 2",
        ),
        ({"label": [0, 1, 2, 1, 3, 1], "names": ["a", "b", "c"]}, "label 3 of row 4 is out of range, expected 0 to 2"),
        ({"label": [0, 1, 2, 1, 99999, 1]}, "label 99999 of row 4 is out of range"),
        ({"label": [0, 1, 2, None, 1, 1]}, "without a label"),
        (
            {"image": [{"bytes": b"", "path": None}] * 5 + [{"bytes": None, "path": "/etc/x.png"}]},
            "row 5 has no picture, only the path 'x.png'",
        ),
    ],
)
def test_rows_that_do_not_fit_name_the_file_and_the_row(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.parquet", range(6), **changed)
    for read in (opened, lambda path: check(config(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        assert words in caught.value.what
        assert str(caught.value.path).startswith(str(path))


def test_parts_with_other_columns_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", range(4))
    bare = write(tmp_path / "test-0.parquet", range(4), label=None)
    error = refusal(tmp_path)
    assert error.path == str(bare)
    assert "other columns than in" in error.what


def test_a_label_that_is_no_class_is_refused_and_other_columns_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", range(4), label=[0.0, 1.0, None, 1.0])
    assert "'label' holds values of type double, which are no classes" in refusal(path).what
    path = write(tmp_path / "b.parquet", range(4), colour=["red"] * 4)
    assert "columns that are not used: colour" in opened(path).notes


def test_bad_pictures_are_named_skipped_and_listed_as_in_a_folder(tmp_path: Path) -> None:
    rows = [{"bytes": png(i), "path": None} for i in range(20)]
    rows[4]["bytes"] = None
    rows[7]["bytes"] = png(7)[:-40]
    path = write(tmp_path / "a.parquet", range(20), image=rows)
    assert str(refusal(path).path) == f"{path}/row 4"
    report = check(config(path))
    assert [name for name, _ in report.bad] == [f"{path}/row 4", f"{path}/row 7"]
    assert values(opened(path, on_bad="skip").train) == [i for i in range(20) if i not in (4, 7)]
    path = write(tmp_path / "one.parquet", range(1))
    assert "one picture only" in refusal(path).what


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", range(20))
    content = path.read_bytes()
    middle = bytearray(content)
    middle[100:140] = bytes(40)
    for damaged in (content[:-9], content[: len(content) // 2], b"", b"hello", bytes(middle)):
        path.write_bytes(damaged)
        error = refusal(path)
        assert str(error.path).startswith(str(path))


def test_a_missing_library_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", range(4))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path).fix == 'pip install "genai-trainer[parquet]"'
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = refusal("hub:someone/something")
    assert error.fix == 'pip install "genai-trainer[hub]"'
    assert "someone/something" in str(error)


def test_a_picture_kept_once_for_many_rows_is_unpacked_only_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    picture = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(picture)
    for name, count in (("some", 10), ("bomb", 1000)):
        table = pa.table({"image": [picture.read_bytes()] * count})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    monkeypatch.setattr(tables_module, "HELD_BYTES", 50_000)
    data = opened(tmp_path / "some.parquet")
    assert len(data.train) + len(data.valid or ()) == 10
    assert any("unpacked" in note for note in data.notes)  # more than the file's size promised
    error = refusal(tmp_path / "bomb.parquet")
    assert "20 times its size" in error.what
    assert not list(cache_folder.rglob("*.tmp"))


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    return found


def test_a_hub_set_is_what_the_library_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Any) -> None:
    """Made by the library from a folder (so that the table holds paths) and saved by it, with its features."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "downloads"
    for part, numbers in (("train", range(8)), ("test", range(50, 53))):
        for i in numbers:
            file = folder / part / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(i))
    made = datasets.load_dataset("imagefolder", data_dir=str(folder))
    made.save_to_disk(tmp_path / "saved")
    asked = []
    for read in (lambda: made, lambda: datasets.load_from_disk(str(tmp_path / "saved"))):
        monkeypatch.setattr(datasets, "load_dataset", lambda name, read=read: asked.append(name) or read())
        for path in ("hub:someone/digits", "someone/digits"):
            data = opened(path)
            assert data.valid is not None
            assert sorted(values(data.train)) == list(range(8))
            assert sorted(values(data.valid)) == [50, 51, 52]
            assert labels(data.train) == [i % 2 for i in values(data.train)]
            assert data.spec.cond["label"].names == ("a", "b")
            assert data.name == "someone/digits"
    assert set(asked) == {"someone/digits"}
    assert modality_of("path", "hub:someone/digits") == "image"
    assert describe("path", config("hub:someone/digits"))["classes"] == {"a": 6, "b": 5}
    monkeypatch.setattr(tables_module, "HELD_BYTES", 0)  # unpacked into the cache
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    assert sorted(values(opened("hub:someone/digits").train)) == list(range(8))


def test_a_hub_set_of_texts_holds_out_its_test_part_and_names_its_classes(
    monkeypatch: pytest.MonkeyPatch, datasets: Any
) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )

    def part(name: str, count: int) -> Any:
        rows = {"text": [f"{name} {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
        return datasets.Dataset.from_dict(rows, features)

    made = {"train": part("train", 30), "test": part("test", 20)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    for settings in ({"given": "label"}, {}):
        data = opened("hub:someone/reviews", context=8, **settings)
        tokenizer = read_tokenizer(data.spec.tokenizer)
        learned, held_out = (tokenizer.decode(np.array(split.ids)) for split in (data.train, data.valid))  # type: ignore[union-attr]
        assert (learned.count("train"), learned.count("test")) == (30, 0)
        assert (held_out.count("train"), held_out.count("test")) == (0, 20)
        assert data.spec.questions == (("label: bad", "label: good") if settings else ())
    assert modality_of("path", "hub:someone/reviews") == "image"  # until it is fetched
    assert modality_of("path", "hub:someone/reviews", as_text=True) == "text"
    assert modality_of("path", "hub:someone/reviews", as_table=True) == "table"
    assert compose_train("transformer", ["data.path=hub:someone/reviews"]).net.name == "gpt"


def test_a_hub_set_that_names_a_file_of_this_machine_is_a_matter_of_security(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Any
) -> None:
    (tmp_path / "private.png").write_bytes(png(1))
    image = datasets.Features({"image": datasets.Image()})
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "private.png")}] * 4}
    made = datasets.Dataset.from_dict(rows, features=image)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    error = refusal("hub:someone/digits", SecurityError)
    assert error.exit_code == 9
    assert "private.png" in error.what


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Any
) -> None:
    monkeypatch.setattr(hub_module, "_reachable", lambda endpoint: False)
    error = refusal("hub:someone/nothing-of-that-name")
    assert error.exit_code == 3
    assert error.path == "hub:someone/nothing-of-that-name"
    assert "cannot be reached" in error.what


def test_what_the_library_raises_is_one_line_with_the_name(monkeypatch: pytest.MonkeyPatch, datasets: Any) -> None:
    def load(name: str) -> None:
        raise RuntimeError("no such set\nof two lines")

    monkeypatch.setattr(hub_module, "_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    error = refusal("hub:someone/typo")
    assert error.what == "the hub set cannot be read: no such set of two lines"
    assert error.path == "hub:someone/typo"


def test_a_name_is_one_of_the_hub_only_where_no_such_path_is(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sniff.hub_name("hub:a/b") == "a/b"
    assert sniff.hub_name("hub:mnist") == "mnist"
    for name in ("./a/b", "a/b/c", "/a/b", "a", "~/b", "a b/c"):
        assert sniff.hub_name(name) is None
    with pytest.raises(DataError, match="no name of a hub set"):
        sniff.hub_name("hub:a b")
    pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    monkeypatch.chdir(workplace)
    assert sniff.hub_name("photos/cats") == "photos/cats"
    (workplace / "photos").mkdir()
    assert sniff.hub_name("photos/cats") is None  # a slip of the pen, in a folder that is here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert sniff.hub_name("a/b") is None
    assert "genai-trainer[hub]" in refusal("a/b").fix
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    write(workplace / "a" / "b" / "0.parquet", range(3))
    assert sniff.hub_name("a/b") is None
    assert values(opened("a/b").train) == [0, 1, 2]
