"""Titles of samples: beside their rows in an overview or below each picture, and in what is written of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from genai import writers
from genai.contract import Spec
from genai.lettering import one_line, wrapped


def tiles(count: int) -> np.ndarray:
    """Black pictures (count, 8, 8, 1) with a grey of their own in the middle."""
    pictures = np.zeros((count, 8, 8, 1), np.uint8)
    pictures[:, 4, 4, 0] = 10 + np.arange(count)
    return pictures


def test_a_row_of_the_grid_is_named_by_its_prompt() -> None:
    grid = writers.grid(tiles(4), None, (), titles=["b", "a", "b", "a"])
    assert np.array_equal(np.asarray(grid), np.asarray(writers.grid(tiles(4), [0, 1, 0, 1], ["b", "a"])))
    long = writers.grid(tiles(4), None, (), titles=["one that needs more than a line beside the row"] * 2 + ["b"] * 2)
    assert grid.height == long.height
    assert grid.width < long.width < grid.width + 220


def test_the_frames_of_a_clip_are_a_row_with_its_title(tmp_path: Path) -> None:
    spec = Spec("real", (1, 3, 8, 8), "video")
    clips = tiles(6).reshape(2, 3, 8, 8)[:, None]
    writers.write_overview(tmp_path / "grid.png", clips, None, spec, {}, titles=["a", "b"])
    expected = writers.grid(tiles(6), [0, 0, 0, 1, 1, 1], ["a", "b"])
    with Image.open(tmp_path / "grid.png") as grid:
        assert np.array_equal(np.asarray(grid), np.asarray(expected))


def test_pictures_of_prompts_that_all_differ_stand_in_columns_with_the_prompt_below() -> None:
    few = writers.grid(tiles(4), None, (), titles=["a", "b", "c", "d"])
    assert few.size == (2 * (112 + 10) + 10, 2 * (112 + 16 + 10) + 10)
    shown = np.asarray(few.convert("L"))
    for i in range(4):
        top, left = 10 + i // 2 * 138, 10 + i % 2 * 122
        assert shown[top + 60, left + 60] == 10 + i
        below = shown[top + 112 : top + 138, left : left + 112]
        assert below.min() < 128 <= below.max()  # letters
    longer = writers.grid(tiles(4), None, (), titles=["a", "b", "c", "a prompt of several words, more than two lines"])
    assert longer.size == (few.width, few.height + 2 * 16)  # of the row it stands in


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60), st.integers(40, 200), st.integers(1, 4))
def test_wrapped_lines_are_no_wider_than_told_and_hold_the_text(text: str, width: int, most: int) -> None:
    font, text = ImageFont.load_default(13), one_line(text)
    lines = wrapped(text, font, width, most)
    assert len(lines) <= most
    for line in lines:
        assert font.getlength(line) <= width or len(line.removesuffix("..")) == 1
    whole = wrapped(text, font, width, 1000)
    assert "".join(whole).replace(" ", "") == text.replace(" ", "")
    if len(whole) <= most:
        assert lines == whole
    else:
        assert lines[-1].endswith("..")
        assert lines[:-1] == whole[: most - 1]


def test_lines_break_between_words_where_there_are_some() -> None:
    font = ImageFont.load_default(13)
    width = round(font.getlength("a red heart")) + 1
    assert wrapped("a red heart on a table", font, width, 3) == ["a red heart", "on a table"]
    assert wrapped("a red heart on a table", font, width, 1) == ["a red hea.."]
    assert wrapped("", font, width, 3) == []


def test_each_png_holds_its_prompt_and_an_archive_holds_all(tmp_path: Path) -> None:
    spec, values, prompts = Spec("real", (1, 8, 8), "image"), np.moveaxis(tiles(2), -1, 1), ["red heart", "図"]
    writers.write(tmp_path, values, None, spec, {"genai:seed": "1"}, prompts=prompts, titles=prompts)
    for name, told in (("00000.png", "red heart"), ("00001.png", "図"), ("grid.png", None)):
        with Image.open(tmp_path / name) as picture:
            assert (picture.info["genai:seed"], picture.info.get("genai:prompt")) == ("1", told)
    writers.write(tmp_path, values, None, spec, {}, prompts=prompts, npz=True)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as found:
        assert found["prompts"].tolist() == prompts


def test_points_have_their_prompts_beside_them(tmp_path: Path) -> None:
    spec = Spec("real", (2,), "points")
    writers.write(tmp_path, np.zeros((2, 2), np.float32), [0, 1], spec, {}, prompts=["a, b", "図"])
    with open(tmp_path / "samples.csv", encoding="utf-8") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == ["a, b", "図"]
