"""Text from a trained model: drawn id by id until it ends, and written for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from genai.contract import MOST_QUESTIONS, Model, Request, Spec, Streams
from genai.data.documents import question
from genai.data.tokens import Tokenizer, read_tokenizer
from genai.device import Runtime, mix
from genai.errors import ConfigError
from genai.schema import SamplingConfig, unknown

_AROUND = 8  # ids about one that ends a sample
_BETWEEN_SAMPLES = "\n" + 24 * "-" + "\n"
_PREVIEWS, _PREVIEW_IDS = 4, 256


@dataclass(frozen=True)
class Told:
    """A sample: what it goes on from, what was drawn, and whether that came to an end of its own."""

    prompt: str
    text: str
    ended: bool
    ids: tuple[int, ...]
    log_probs: tuple[float, ...] | None = None  # of the ids, and of the end
    answers: bool = False  # the prompt, where it does not go on from it

    @property
    def whole(self) -> str:
        return self.prompt + "\n" * self.answers + self.text


class Row:
    """The ids of a sample as they come."""

    def __init__(self, tokenizer: Tokenizer, endings: Sequence[str]) -> None:
        self.tokenizer, self.endings = tokenizer, endings
        # An id is a byte at least. The last ones may have begun before the ending, or end in half a character.
        self.tail = max((len(ending.encode(errors="replace")) for ending in endings), default=0) + _AROUND
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.ended = False

    def add(self, new: int, log_p: float | None) -> None:
        if self.ended:
            return
        if log_p is not None:
            self.log_probs.append(log_p)
        if new == self.tokenizer.end:
            self.ended = True
            return
        self.ids.append(new)
        if self.endings:
            tail = self.tokenizer.decode(np.array(self.ids[-self.tail :]))
            self.ended = any(ending in tail for ending in self.endings)

    @property
    def text(self) -> str:
        """Up to the text that ended it."""
        found = self.tokenizer.decode(np.array(self.ids, dtype=np.int64))
        return found[: min((found.index(ending) for ending in self.endings if ending in found), default=len(found))]


def tell(
    model: Model,
    runtime: Runtime,
    sampling: SamplingConfig,
    *,
    seed: int,
    count: int,
    prompts: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Told]:
    """`count` samples, of each prompt where there are some; these share their seeds. Without one a model that answers
    is asked by turns what was asked often in training. `say` is told of one alone as it comes. Raises DataError for a
    prompt that the model cannot read."""
    tokenizer = read_tokenizer(model.spec.tokenizer)
    seeds = [mix(seed, i) for i in range(count)] * len(prompts or ("",))
    said = [prompt for prompt in prompts or ("",) for _ in range(count)]
    if prompts is None and model.spec.questions:
        said = [model.spec.questions[i % len(model.spec.questions)] for i in range(count)]
    asked = model.spec.dialogue and (prompts is not None or bool(model.spec.questions))
    encoded = {text: tokenizer.encode(question(text) if asked else text).tolist() for text in dict.fromkeys(said)}
    begins = [[*model.spec.opening, *encoded[text]] for text in said]
    rows = [Row(tokenizer, sampling.stop) for _ in said]

    def told(i: int) -> Told:
        row = rows[i]
        log_probs = tuple(row.log_probs) if sampling.log_probs else None
        return Told(said[i], row.text, row.ended, tuple(row.ids), log_probs, asked)

    for start in range(0, len(rows), sampling.batch_size):
        # Not filled up, as batches of numbers are: a sum that is rounded otherwise rarely makes another id.
        batch = slice(start, start + sampling.batch_size)
        generators = [torch.Generator().manual_seed(number) for number in seeds[batch]]
        for _ in _drawn(rows[batch], begins[batch], generators, model, runtime, sampling):
            if say is not None and len(rows) == 1:
                say(told(0).whole)
    return [told(i) for i in range(len(rows))]


def _drawn(
    rows: Sequence[Row],
    begins: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    model: Model,
    runtime: Runtime,
    sampling: SamplingConfig,
) -> Iterator[None]:
    """Adds an id to each row, behind what it begins with, again and again until all have ended."""
    assert isinstance(model, Streams)
    request = Request(
        count=len(rows),
        cond={},
        generators=generators,
        device=runtime.device,
        dtype=runtime.dtype,
        sampling=sampling,
        begins=begins,
    )
    with runtime.steps_of(sum(p.numel() for p in model.parameters()), len(rows)):
        for ids, log_p in model.stream(request):
            found = [None] * len(rows) if log_p is None else log_p.tolist()
            for row, new, own in zip(rows, ids.tolist(), found, strict=True):
                row.add(new, own)
            yield
            if all(row.ended for row in rows):
                return


class Conversation:
    """Remembers what was said, as far as the model's context reaches."""

    def __init__(self, model: Model, runtime: Runtime, sampling: SamplingConfig, *, seed: int) -> None:
        self.model, self.runtime, self.sampling = model, runtime, sampling
        self.tokenizer = read_tokenizer(model.spec.tokenizer)
        self.generator = torch.Generator().manual_seed(seed)
        self.ids = list(model.spec.opening)

    def answer(self, said: str) -> str:
        """Raises DataError for what the model cannot read."""
        self.ids += self.tokenizer.encode(question(said)).tolist()
        row = Row(self.tokenizer, self.sampling.stop)
        for _ in _drawn([row], [self.ids], [self.generator], self.model, self.runtime, self.sampling):
            pass
        self.ids += [*row.ids, self.tokenizer.end]
        return row.text.strip()


def prompts_of(spec: Spec, labels: Sequence[str]) -> list[str]:
    """What a model that is told one attribute of a text is asked for each of its values, by name or by number. Raises
    ConfigError for another model, and for a value that was not among the few of training."""
    if not spec.given:
        raise ConfigError("this model was trained without labels", fix="leave --label out")
    if len(spec.given) > 1:
        example = next(iter(spec.questions), "; ".join(f"{name}: ..." for name in spec.given))
        what = f"this model is told {', '.join(spec.given)}, no label alone"
        raise ConfigError(what, fix=f"type --prompt '{example}'")
    begin = f"{spec.given[0]}: "
    names = [text.removeprefix(begin) for text in spec.questions if text.startswith(begin)]
    found = []
    for label in labels:
        if label not in names and label.isdecimal() and int(label) < len(names):
            label = names[int(label)]
        if label not in names and 0 < len(names) < MOST_QUESTIONS:
            raise unknown("label", label, names)
        found.append(begin + label)
    return found


def longest_prompt(spec: Spec, prompts: Sequence[str]) -> int:
    """In ids. Raises DataError for a prompt that the model cannot read."""
    tokenizer = read_tokenizer(spec.tokenizer)
    return max(len(tokenizer.encode(prompt)) for prompt in prompts)


def preview(model: Model, runtime: Runtime, sampling: SamplingConfig) -> list[Told]:
    """A few samples without a prompt, always of the same seeds."""
    few = min(_PREVIEW_IDS, sampling.max_tokens or _PREVIEW_IDS)
    settings = replace(sampling, batch_size=_PREVIEWS, max_tokens=few)
    return tell(model, runtime, settings, seed=0, count=_PREVIEWS)


def as_text(samples: Sequence[Told]) -> str:
    """With their prompts: one a line where none has several, else one below the other."""
    texts = [sample.whole for sample in samples]
    between = "\n" if all("\n" not in text.strip("\n") for text in texts) and len(texts) > 1 else _BETWEEN_SAMPLES
    return between.join(text.strip("\n") for text in texts) + "\n"


def write(folder: Path, samples: Sequence[Told]) -> list[str]:
    """`samples.txt` and `samples.jsonl`. Raises OSError."""
    (folder / "samples.txt").write_text(as_text(samples), encoding="utf-8")
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as file:
        for sample in samples:
            record = {"prompt": sample.prompt, "text": sample.text, "ended": sample.ended, "ids": len(sample.ids)}
            if sample.log_probs is not None:
                record["log_probs"] = [round(value, 5) for value in sample.log_probs]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return ["samples.txt", "samples.jsonl"]
