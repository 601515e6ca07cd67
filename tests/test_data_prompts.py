"""Captions as what a model is told: equal texts are equal bytes, each stays with its sample, none is told in vain."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genai.contract import Batch, Spec
from genai.data import listed as listed_module
from genai.data.codec import Codec, LatentSplit
from genai.data.loader import Loader
from genai.data.prompts import MOST_BYTES, VOCAB, longest, prompt_ids, prompt_texts, read_prompts
from genai.data.source import Dataset, SeenBy, open_data
from genai.errors import DataError
from genai.factory import build_model
from genai.schema import DataConfig, PathText
from harness import config_of
from pictures import Halves

CPU = torch.device("cpu")


def opened(path: Path, *, predicts: Any = "data", seen_by: SeenBy | None = None, **settings: Any) -> Dataset:
    config = DataConfig(name="path", path=PathText(str(path)), **settings)
    return open_data(config, predicts=predicts, seen_by=seen_by)


def caption(i: int) -> str:
    """Of one to three bytes a character, of unequal lengths."""
    return ("a", "é", "図")[i % 3] * (i % 5 + 1) + f" {i}"


def folder_of(path: Path, captions: list[str]) -> Path:
    """Grey pictures that their own number can be read from, with captions."""
    for i in range(len(captions)):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(path / f"{i:03d}.png")
    rows = [f'{i:03d}.png,"{text}"' for i, text in enumerate(captions)]
    (path / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n", encoding="utf-8")
    return path


def everything(split: Any) -> Batch:
    return split.fetch(torch.arange(len(split)))


def numbers(batch: Batch) -> list[int]:
    return np.rint(batch.x[:, 0, 0, 0].numpy() * 127.5 + 127.5).astype(int).tolist()


def told(batch: Batch) -> list[str]:
    assert batch.cond["prompt"].dtype == torch.int64
    return list(prompt_texts(batch.cond["prompt"].numpy()))


# -- texts as bytes ----------------------------------------------------------------------------------------------------


def test_ids_are_utf8_in_normal_form_without_blanks_around_and_filled_up_with_zeros() -> None:
    ids = prompt_ids([" Red heart\n", "e\u0301", "", "図 A"], 12)
    assert (ids.shape, ids.dtype) == ((4, 12), np.uint8)
    assert bytes(ids[0]) == b"Red heart\0\0\0"
    assert bytes(ids[1]) == "é".encode().ljust(12, b"\0")
    assert not ids[2].any()
    assert prompt_texts(ids) == ("Red heart", "é", "", "図 A")
    assert longest(["a", "図図"]) == 6
    assert longest(["", "  "]) == 0
    assert longest(["x" * 1000]) == MOST_BYTES == VOCAB


@pytest.mark.parametrize(("length", "kept"), [(6, "ab図c"), (5, "ab図"), (4, "ab"), (3, "ab"), (1, "a")])
def test_a_text_is_cut_before_the_character_that_does_not_fit(length: int, kept: str) -> None:
    assert prompt_texts(prompt_ids(["ab図c"], length)) == (kept,)


@given(st.lists(st.text(), min_size=1, max_size=5), st.integers(1, 20))
def test_ids_of_any_text_are_a_beginning_of_it_and_those_of_what_they_say(texts: list[str], length: int) -> None:
    ids = prompt_ids(texts, length)
    assert np.array_equal(prompt_ids(prompt_texts(ids), length), ids)
    for text, row in zip(texts, ids, strict=True):
        data = bytes(row).rstrip(b"\0")
        assert 0 not in data
        data.decode()
        clean = unicodedata.normalize("NFC", text).replace("\0", " ").strip()
        assert clean.encode(errors="replace").startswith(data)


def test_prompts_of_a_file_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfred heart \r\n\r\n  \n" + "猫".encode())
    assert read_prompts(path) == ["red heart", "猫"]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b" \n\n", "holds no prompts"), (b"\xff\xfe\x00", "no UTF-8 text")]
)
def test_a_file_without_prompts_is_told_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_prompts(path)
    assert caught.value.path == path
    assert len(caught.value.lines()) == 1


# -- of a set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_each_prompt_stays_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    captions = [caption(i) for i in range(30)]
    if stream:
        monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    data = opened(folder_of(tmp_path, captions), valid_fraction=0.2)
    assert data.train.streams is stream
    length = max(len(captions[i].encode()) for i in numbers(everything(data.train)))
    assert data.spec.cond == {"prompt": Spec(kind="token", shape=(length,), modality="text", vocab=256)}
    assert data.spec.prompt_length == length
    for split in (data.train, data.valid):
        batch = everything(split)
        expected = prompt_texts(prompt_ids([captions[i] for i in numbers(batch)], length))
        assert told(batch) == list(expected)
        assert split.prompts.dtype in (torch.uint8, np.uint8)  # type: ignore[union-attr]


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_prompts_reach_the_trainer_by_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, latent: bool
) -> None:
    """In memory (None), and read from files in this process or by others; as pictures and as latents."""
    captions = [caption(i) for i in range(20)]
    if workers is not None:
        monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    data = opened(folder_of(tmp_path, captions), valid_fraction=0.0)
    split = data.train
    if latent:
        codec = Codec(Halves(1), data.spec, "", CPU, torch.float32)
        split = LatentSplit(data.train, codec)
        assert codec.encoded(data.spec).prompt_length == data.spec.prompt_length
    loads = Loader(split, seed=1, batch_size=6, num_micro=2, first_micro=0, own_micro=2, device=CPU,
                   dtype=torch.float32, workers=workers or 0)  # fmt: skip
    try:
        for position in (0, 6, 12, 18):
            for batch in loads.take(position):
                assert told(batch) == [captions[i] for i in numbers(batch)]
                assert set(batch.cond) == {"prompt"}
    finally:
        loads.close()


def test_labels_and_prompts_go_together(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = np.arange(6, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(path, images=x, labels=np.arange(6) % 2, captions=[caption(i) for i in range(6)])
    batch = everything(opened(path, valid_fraction=0.0).train)
    assert batch.cond["label"].tolist() == [i % 2 for i in numbers(batch)]
    assert told(batch) == [caption(i) for i in range(6)]
    target = opened(path, predicts="target", valid_fraction=0.0)
    assert (set(target.spec.cond), set(everything(target.train).cond)) == ({"input"}, {"input"})


def test_the_training_part_says_how_long_a_prompt_is_and_what_is_longer_is_cut_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    pictures = np.zeros((2, 8, 8), np.uint8)
    np.savez(path, images=pictures, test_images=pictures, captions=["abcd", "図"], test_captions=["abc図", "ab"])
    data = opened(path)
    assert data.spec.prompt_length == 4
    assert told(everything(data.valid)) == ["abc", "ab"]
    assert "1 captions are longer than 4 bytes: models are told their beginning" in data.notes
    np.savez(path, images=pictures, captions=["x" * 300, "é" * 200])
    data = opened(path, valid_fraction=0.0)
    assert told(everything(data.train)) == ["x" * 256, "é" * 128]
    assert any(note.startswith("2 captions are longer than 256 bytes") for note in data.notes)


def test_no_captions_are_no_prompts(tmp_path: Path) -> None:
    """Of a part that has none beside one that has some, and of a set whose captions are all empty."""
    path = tmp_path / "a.npz"
    pictures = np.zeros((3, 8, 8), np.uint8)
    np.savez(path, images=pictures, test_images=pictures, captions=["a", "", "b c"])
    data = opened(path)
    assert told(everything(data.train)) == ["a", "", "b c"]
    assert data.prompts == (("a", None), ("b c", None))
    assert everything(data.valid).cond["prompt"].tolist() == [[0, 0, 0]] * 3
    for captions in ({}, {"captions": ["", " ", ""]}, {"test_captions": ["a", "b", "c"]}):
        np.savez(path, images=pictures, test_images=pictures, **captions)  # type: ignore[arg-type]
        data = opened(path)
        assert (data.spec.cond, everything(data.train).cond, data.prompts) == ({}, {}, ())


def test_a_model_that_exists_reads_as_much_of_a_caption_as_it_learned(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((2, 8, 8), np.uint8), captions=["abcdef", "a"])
    units = opened(path).spec
    for length, expected in ((3, ["abc", "a"]), (9, ["abcdef", "a"])):
        data = opened(path, seen_by=SeenBy(units, (), True, length))
        assert told(everything(data.valid)) == expected
        assert data.spec.prompt_length == length
    first_stage = SeenBy(units.told(), (), False)  # it says nothing of the model that learns its latents
    assert told(everything(opened(path, seen_by=first_stage, valid_fraction=0.0).train)) == ["abcdef", "a"]
    deaf = opened(path, seen_by=SeenBy(units, (), True, 0))
    assert (deaf.spec.cond, everything(deaf.valid).cond) == ({}, {})
    np.savez(path, images=np.zeros((2, 8, 8), np.uint8))
    assert opened(path, seen_by=SeenBy(units, (), True, 3)).spec.cond == {}


def test_prompts_for_previews_differ_and_come_from_all_over_the_held_out_part(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    count = 60
    captions = [f"{i // 2}" for i in range(count)]  # each twice
    arrays = {"images": np.zeros((count, 8, 8), np.uint8), "labels": np.arange(count) // 30, "captions": captions}
    np.savez(path, **arrays, test_images=arrays["images"], test_labels=1 - arrays["labels"], test_captions=captions)
    prompts = opened(path).prompts
    assert [text for text, _ in prompts] == [str(round(i)) for i in np.linspace(0, 29, 16)]
    assert [label for _, label in prompts] == [int(int(text) < 15) for text, _ in prompts]
    np.savez(path, images=arrays["images"][:6], captions=["b", "a", "b", "", "c", "a"])
    assert opened(path, valid_fraction=0.0).prompts == (("b", None), ("a", None), ("c", None))


# -- models that read none ---------------------------------------------------------------------------------------------


def test_a_spec_is_told_no_more_than_what_is_named() -> None:
    label, prompt = Spec("token", (), "label", classes=3), Spec("token", (5,), "text", vocab=256)
    spec = Spec("real", (1, 8, 8), "image", cond={"label": label, "prompt": prompt})
    assert spec.told("label") == replace(spec, cond={"label": label})
    assert spec.told("prompt", "label", "context") == spec
    assert spec.told().cond == {}
    assert (spec.prompt_length, spec.told("label").prompt_length) == (5, 0)


@pytest.mark.parametrize(
    ("model", "conditions"),
    [
        ("gan", {"label"}),
        ("gan model.conditional=false", set()),
        ("vae", {"label"}),
        ("vae model.prior=normal", set()),
    ],
)
def test_models_that_read_no_prompts_are_not_burdened_with_them(
    model: str, conditions: set[str], tmp_path: Path
) -> None:
    name, *form = model.split()
    config = config_of(name, tmp_path / "unused", "data=emoji", "data.size=16", "net.width=8", *form)
    data = open_data(config.data, predicts="data")
    assert set(data.spec.cond) == {"label", "prompt"}
    built = build_model(config, data.spec)
    assert set(built.spec.cond) == conditions
    heard = data.heard_by(built.spec)
    for split in (heard.train, heard.valid):
        assert set(split.fetch(torch.arange(2)).cond) == {"label"}  # type: ignore[union-attr]
        assert split.prompts is None  # type: ignore[union-attr]
    assert heard.spec == data.spec
    assert data.heard_by(data.spec) is data
