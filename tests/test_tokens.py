"""Text as ids, and the next id from its logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.data.tokens import Tokenizer, make_tokenizer, read_tokenizer
from genai.errors import ConfigError, DataError
from genai.solvers.tokens import choose, penalised

TEXT = "To be, or not to be: that is the question.\n春眠不觉晓，处处闻啼鸟。\n" * 40
KINDS = ["characters", "bytes", "bpe"]


def made(kind: str, text: str = TEXT) -> Tokenizer:
    return make_tokenizer(lambda: [text], kind, 300)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back_as_it_was(kind: str) -> None:
    tokenizer = made(kind)
    again = read_tokenizer(tokenizer.dump())
    ids = tokenizer.encode(TEXT)
    assert ids.max() < tokenizer.end if kind != "bpe" else ids.max() < tokenizer.vocab
    assert again.decode(ids) == TEXT
    assert np.array_equal(again.encode(TEXT), ids)
    assert again.vocab == tokenizer.vocab
    assert again.decode(np.array([tokenizer.end])) == ""


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_bytes_and_pieces_read_and_write_any_text(text: str) -> None:
    for tokenizer in (made("bytes"), PIECES):
        assert tokenizer.decode(tokenizer.encode(text)) == text


PIECES = made("bpe")


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_add_up_to_the_text(kind: str) -> None:
    tokenizer = made(kind)
    num_bytes, characters = tokenizer.sizes()
    ids = np.append(tokenizer.encode(TEXT), tokenizer.end)
    assert num_bytes[ids].sum() == len(TEXT.encode())
    assert characters[ids].sum() == len(TEXT)


def test_what_says_it_is_a_mark_is_text() -> None:
    ids = PIECES.encode("a <|end|> b")
    assert PIECES.end not in ids
    assert PIECES.decode(ids) == "a <|end|> b"


def test_a_character_that_was_never_seen_is_named() -> None:
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\)"):
        made("characters").encode("not é")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_what_is_no_text_among_arguments_is_read_as_a_question_mark(kind: str) -> None:
    tokenizer = make_tokenizer(lambda: ["some text"], kind, 300)  # type: ignore[arg-type]
    assert tokenizer.decode(tokenizer.encode("a\udcff")) == "a?"


def test_too_few_pieces_are_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        make_tokenizer(lambda: [TEXT], "bpe", 256)


# -- the next id -------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[math.log(p) for p in (0.5, 0.05, 0.25, 0.15, 0.05)]])


def shares(**options: float) -> list[float]:
    """How often each id is drawn, by numbers that lie evenly over [0, 1)."""
    u = (torch.arange(10_000) + 0.5) / 10_000
    ids = choose(LOGITS.expand(len(u), -1), u, **options)  # type: ignore[arg-type]
    return (torch.bincount(ids, minlength=5) / len(u)).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.05, 0.25, 0.15, 0.05]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [p**2 / 0.34 for p in (0.5, 0.05, 0.25, 0.15, 0.05)]),
        ({"top_k": 2}, [2 / 3, 0, 1 / 3, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 99}, [0.5, 0.05, 0.25, 0.15, 0.05]),
        ({"top_p": 0.7}, [2 / 3, 0, 1 / 3, 0, 0]),  # 0.5 is not enough
        ({"top_p": 0.4}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.4}, [2 / 3, 0, 1 / 3, 0, 0]),
        ({"top_k": 3, "top_p": 0.8, "min_p": 0.01}, [2 / 3, 0, 1 / 3, 0, 0]),  # 0.75 of 0.9 is enough
    ],
)
def test_ids_are_drawn_by_their_share_of_what_is_left(options: dict[str, float], expected: list[float]) -> None:
    assert shares(**options) == pytest.approx(expected, abs=2e-3)


def test_the_ends_of_the_unit_interval_give_ids() -> None:
    u = torch.tensor([0.0, 1.0 - 2**-24])
    assert choose(LOGITS.expand(2, -1), u).tolist() == [0, 4]
    assert choose(torch.tensor([[-math.inf, 0.0]]).expand(2, -1), u).tolist() == [1, 1]


def test_temperatures_near_zero_take_the_likeliest() -> None:
    for temperature in (0.0, 1e-40, 1e-7, 1e-6):
        assert choose(torch.tensor([[1.0, 15.0, 3.0]]), torch.tensor([0.5]), temperature=temperature).tolist() == [1]


def test_a_penalty_makes_what_was_said_less_likely_and_nothing_else() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    found = penalised(logits, torch.tensor([[True, True, False, False]]), 2.0)
    assert found.tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_pieces_are_learned_from_many_short_texts() -> None:
    tokenizer = make_tokenizer(lambda: [f"{letter}{letter}x" for letter in "a" * 100 + "j" * 100], "bpe", 1000)
    assert len(tokenizer.encode("jjx")) == 1
