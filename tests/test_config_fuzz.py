"""Whatever is typed, the answer is a configuration or lines that say what is wrong: never a traceback."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from genai.__main__ import run
from genai.config import compose_train
from genai.errors import ConfigError
from genai.overrides import _quoted, parsed_override

# What argv can hold: no NUL, and bytes that are no UTF-8 arrive as lone surrogates.
ARGUMENT = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=40)
GRAMMAR = st.text(alphabet="()[]{},:=$'\"\\ \t#~+-.@|/%*?!0123456789abctruenl", max_size=30)
CHOICES = ["data", "net", "optim", "experiment", "trainer", "hydra/launcher"]
SETTINGS = ["optim.lr", "optim.betas", "seed", "run.dir", "run.name", "trainer.batch_size", "model.nets", "model.loss"]
KEYS = st.sampled_from([*CHOICES, *SETTINGS, "data.size", "data.codec", "dtype", "hydra.verbose"])
SOME = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@given(ARGUMENT | GRAMMAR)
@settings(max_examples=400, deadline=None)
@example("\\")
@example("'")
@example("a\\'b\\\\'")
def test_quoted_text_is_read_back_as_it_was(text: str) -> None:
    override = parsed_override(f"++key={_quoted(text)}")
    assert override is not None
    assert override.value() == text


@given(text=ARGUMENT | GRAMMAR)
@SOME
def test_any_path_arrives_as_typed(text: str) -> None:
    typed = f"run.dir={text}"
    if "${" in text or text[:1] in ("'", '"') or text in ("", "null") or text.startswith("~/"):
        return  # these mean something, or nothing: see test_config.py
    assert compose_train("gan", [typed]).run.dir == text


@given(key=KEYS | ARGUMENT | GRAMMAR, value=ARGUMENT | GRAMMAR)
@SOME
@example("trainer.batch_size", "[" * 3000)
@example("optim.betas", "9" * 5000)
@example("optim.betas", "[0.1," + "{a:" * 12)
@example("optim.lr", "1e999")
@example("hydra.verbose", "${")
def test_any_setting_is_read_or_refused_by_name(key: str, value: str) -> None:
    told: list[str] = []
    try:
        compose_train("gan", [f"{key}={value}"])
    except ConfigError as error:
        told = error.lines()
    assert len(told) <= 8
    assert all(line and "\n" not in line for line in told)


@given(arguments=st.lists(ARGUMENT | GRAMMAR, max_size=3))
@SOME
def test_any_command_line_ends_with_0_or_2(arguments: list[str]) -> None:
    assert run(["train", "gan", "--dry-run", *arguments]) in (0, 2)


@pytest.mark.parametrize("verb", ["resume", "sample", "eval", "runs", "config", "data", "list", "inspect"])
def test_nonsense_for_a_verb_is_told_in_a_line(
    verb: str, workplace: object, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([verb, "--nonsense"])
    told = capsys.readouterr().err
    assert code == 2
    assert told.startswith("error: unknown flag '--nonsense'")
    assert told.count("\n") == 1
