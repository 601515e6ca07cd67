"""Captions from metadata files and arrays: each stays with its picture, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genai.data import listed as listed_module
from genai.data.check import check, describe
from genai.data.source import Dataset, open_data
from genai.errors import DataError
from genai.schema import DataConfig, PathText


def config(path: Path, **settings: Any) -> DataConfig:
    return DataConfig(name="path", path=PathText(str(path)), **settings)


def opened(path: Path, **settings: Any) -> Dataset:
    return open_data(config(path, **settings), predicts="data")


def grey(path: Path, value: int) -> None:
    """A picture that its own number can be read from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def numbers(split: Any) -> list[int]:
    import torch

    x = split.fetch(torch.arange(len(split))).x
    return np.rint(x[:, 0, 0, 0].numpy() * 127.5 + 127.5).astype(int).tolist()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return
    lines = [",".join(rows[0])] + [",".join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("classes", [0, 2])
def test_captions_count_wherever_a_jsonl_begins_to_have_them(tmp_path: Path, classes: int) -> None:
    rows: list[dict[str, Any]] = []
    for i in range(4):
        grey(tmp_path / f"{i}.png", i)
        label = {"label": "ab"[i % 2]} if classes else {}
        rows.append({"file_name": f"{i}.png", **label, **({"text": str(i)} if i else {})})
    write(tmp_path / "metadata.jsonl", rows)
    data = opened(tmp_path, valid_fraction=0.0)
    assert data.num_captions == 4
    assert data.notes[-1] == "1 captions are empty"
    assert data.spec.label_classes == classes


@pytest.mark.parametrize("line", ["{oops", "[1]", '"text"'])
def test_a_line_of_a_jsonl_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    for i in range(4):
        grey(tmp_path / f"{i}.png", i)
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "0.png", "text": "a"}}\n{line}\n')
    with pytest.raises(DataError, match="row 2 is no JSON object"):
        opened(tmp_path)


def test_a_row_of_a_jsonl_without_the_label_that_others_have_is_refused(tmp_path: Path) -> None:
    for i in range(4):
        grey(tmp_path / f"{i}.png", i)
    write(
        tmp_path / "metadata.jsonl",
        [{"file_name": f"{i}.png"} | ({"label": "ab"[i % 2]} if i else {}) for i in range(4)],
    )
    with pytest.raises(DataError, match="row 1 has no label"):
        opened(tmp_path)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_each_caption_stays_with_its_picture_through_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stream: bool
) -> None:
    for i in range(20):
        grey(tmp_path / f"{19 - i}.png", i)
    rows = [{"file_name": f"{19 - i}.png", "text": f"number {i}, 図"} for i in range(20)]
    write(tmp_path / f"metadata.{kind}", rows)
    if stream:
        monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    data = opened(tmp_path, valid_fraction=0.2)
    assert data.spec.label_classes == 0  # captions alone are no classes
    for split in (data.train, data.valid):
        assert split is not None
        assert split.captions == tuple(f"number {i}, 図" for i in numbers(split))  # type: ignore[attr-defined]
    assert (data.num_captions, len(data.caption_examples)) == (20, 3)
    shown = describe("path", config(tmp_path))
    assert shown["captions"] == 20
    assert shown["caption_examples"] == ("number 19, 図", "number 18, 図", "number 9, 図")


def test_a_changed_caption_changes_the_fingerprint(tmp_path: Path) -> None:
    for i in range(3):
        grey(tmp_path / f"{i}.png", i)
    without = opened(tmp_path).fingerprint
    found = []
    for word in ("one", "two", "one"):
        write(tmp_path / "metadata.csv", [{"file": f"{i}.png", "caption": word} for i in range(3)])
        found.append(opened(tmp_path).fingerprint)
    assert found[0] == found[2]
    assert len({without, *found}) == 3


def test_sub_folders_stay_classes_where_metadata_have_captions_only(tmp_path: Path) -> None:
    """Rows may lie at the top or in each sub-folder, where names are relative to it."""
    files = [f"{label}/{i}.png" for label in "ab" for i in range(3)]
    for value, name in enumerate(files):
        grey(tmp_path / "top" / name, value)
        grey(tmp_path / "each" / name, value)
    write(tmp_path / "top" / "metadata.csv", [{"file_name": name, "text": name} for name in files])
    for label in "ab":
        rows = [{"file_name": f"{i}.png", "text": f"{label}/{i}.png"} for i in range(3)]
        write(tmp_path / "each" / label / "metadata.jsonl", rows)
    for folder in ("top", "each"):
        data = opened(tmp_path / folder, valid_fraction=0.0)
        assert data.spec.cond["label"].names == ("a", "b")
        assert data.train.captions == tuple(files)  # type: ignore[attr-defined]
        assert data.notes == ()


@pytest.mark.parametrize("where", ["inside", "above"])
def test_metadata_of_train_and_test_folders(tmp_path: Path, where: str) -> None:
    rows = {}
    for part, count in (("train", 5), ("test", 2)):
        rows[part] = [{"file_name": f"{i}.png", "text": f"{part} {i}", "label": str(i % 2)} for i in range(count)]
        for i in range(count):
            grey(tmp_path / part / f"{i}.png", i)
        if where == "inside":
            write(tmp_path / part / "metadata.csv", rows[part])
    if where == "above":
        together = [row | {"file_name": f"{part}/{row['file_name']}"} for part in rows for row in rows[part]]
        write(tmp_path / "metadata.csv", together)
    data = opened(tmp_path)
    assert data.valid is not None
    assert data.train.captions == tuple(f"train {i}" for i in range(5))  # type: ignore[attr-defined]
    assert data.valid.captions == ("test 0", "test 1")  # type: ignore[attr-defined]
    assert data.spec.cond["label"].names == ("0", "1")
    assert data.num_captions == 7


def test_empty_captions_are_allowed_and_told(tmp_path: Path) -> None:
    for i in range(3):
        grey(tmp_path / f"{i}.png", i)
    write(tmp_path / "metadata.csv", [{"file_name": f"{i}.png", "text": "x" if i else ""} for i in range(3)])
    data = opened(tmp_path, valid_fraction=0.0)
    assert data.train.captions == ("", "x", "x")  # type: ignore[attr-defined]
    assert data.notes == ("1 captions are empty",)
    assert data.caption_examples == ("x", "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.append({"file_name": "9.png", "text": "x", "label": "0"}), "row 5 names '9.png', which"),
        (lambda rows: rows.append({"file_name": "../2.png", "text": "x", "label": "0"}), "row 5 names '../2.png'"),
        (lambda rows: rows.pop(), "no row for '2.png'"),
        (lambda rows: rows.append({"file_name": "./1.png", "text": "x", "label": "0"}), "row 5 names '1.png' again"),
        (lambda rows: rows[1].update(label="-1"), "label -1 of row 3 is out of range, expected 0 to 999"),
        (lambda rows: rows[2].update(label="70000"), "label 70000 of row 4 is out of range"),
        (lambda rows: rows[2].update(text='a", b, "c'), "row 4 has more fields"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_pictures_name_the_file_and_the_row(tmp_path: Path, change: Any, words: str) -> None:
    rows = [{"file_name": f"{i}.png", "text": "a b", "label": str(i)} for i in range(3)]
    for i in range(3):
        grey(tmp_path / f"{i}.png", i)
    metadata = tmp_path / "metadata.csv"
    write(metadata, rows)
    assert opened(tmp_path).num_captions == 3
    change(rows)
    write(metadata, rows)
    for read in (opened, lambda path: check(config(path))):
        with pytest.raises(DataError) as caught:
            read(tmp_path)
        assert words in caught.value.what
        assert caught.value.path == metadata
        assert len(caught.value.lines()) == 1


def test_several_captions_of_one_picture_are_refused_and_other_columns_told(tmp_path: Path) -> None:
    for i in range(2):
        grey(tmp_path / f"{i}.png", i)
    metadata = tmp_path / "metadata.jsonl"
    write(metadata, [{"file_name": f"{i}.png", "text": ["a", "b"]} for i in range(2)])
    with pytest.raises(DataError, match="'text' of row 1 is a list"):
        opened(tmp_path)
    write(metadata, [{"file_name": f"{i}.png", "boxes": [1, 2]} for i in range(2)])
    data = opened(tmp_path)
    assert data.num_captions == 0
    assert data.notes[0] == "no column 'label' or 'text' in metadata.jsonl: it says nothing of the pictures"


@pytest.mark.parametrize("text", ["", "file_name,label\n"])
def test_metadata_without_rows_are_refused_by_name(tmp_path: Path, text: str) -> None:
    for i in range(2):
        grey(tmp_path / f"{i}.png", i)
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match="the file has no rows") as caught:
        opened(tmp_path)
    assert caught.value.path == tmp_path / "metadata.csv"


def test_captions_of_arrays(tmp_path: Path) -> None:
    x, path = np.arange(6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), tmp_path / "a.npz"
    np.savez(path, images=x, captions=np.array([f"number {i}" for i in range(6)]))
    data = opened(path, valid_fraction=0.5)
    for split in (data.train, data.valid):
        assert split is not None
        assert split.captions == tuple(f"number {i}" for i in numbers(split))  # type: ignore[attr-defined]
    np.savez(path, images=x[:4], test_images=x[4:], captions=["a"] * 4, test_captions=[b"b"] * 2)
    data = opened(path)
    assert (data.num_captions, data.valid.captions) == (6, ("b", "b"))  # type: ignore[union-attr]
    for captions in (["a"] * 3, np.zeros(4), [["a"]] * 4):
        np.savez(path, images=x[:4], captions=captions)
        with pytest.raises(DataError, match="'captions'") as caught:
            opened(path)
        assert caught.value.path == path
    np.savez(path, images=x[:4], captions=np.array([None] * 4, dtype=object))
    with pytest.raises(DataError, match="never unpickled"):
        opened(path)
