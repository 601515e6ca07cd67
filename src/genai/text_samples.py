"""Text from a trained model: drawn id by id until it ends, and written for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from genai.contract import Model, Request, Spec, Streams
from genai.data.texts import question
from genai.data.tokens import Tokenizer, read_tokenizer
from genai.device import Runtime, mix
from genai.schema import SamplingConfig

_LONGEST_ENDING = 64  # ids among which the end of a text that ends a sample is looked for
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


class Row:
    """The ids of a sample as they come."""

    def __init__(self, tokenizer: Tokenizer, endings: Sequence[str]) -> None:
        self.tokenizer, self.endings = tokenizer, endings
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
            tail = self.tokenizer.decode(np.array(self.ids[-_LONGEST_ENDING:]))
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
    """`count` samples, of each prompt where there are some; these share their seeds. `say` is told of one alone as it
    comes. Raises DataError for a prompt that the model cannot read."""
    tokenizer = read_tokenizer(model.spec.tokenizer)
    endings = [ending for ending in (model.spec.ending, *sampling.stop) if ending]
    seeds = [mix(seed, i) for i in range(count)] * len(prompts or ("",))
    asked = model.spec.dialogue and prompts is not None
    said = [prompt for prompt in prompts or ("",) for _ in range(count)]
    texts = [question(prompt) if asked else prompt for prompt in prompts or ("",)]
    encoded = [[*model.spec.opening, *tokenizer.encode(text).tolist()] for text in texts]
    begins = [ids for ids in encoded for _ in range(count)]
    rows = [Row(tokenizer, endings) for _ in said]
    for start in range(0, len(rows), sampling.batch_size):
        # Not filled up, as batches of numbers are: a sum that is rounded otherwise rarely makes another id.
        batch = slice(start, start + sampling.batch_size)
        generators = [torch.Generator().manual_seed(number) for number in seeds[batch]]
        for _ in _drawn(rows[batch], begins[batch], generators, model, runtime, sampling):
            if say is not None and len(rows) == 1:
                say(said[0] + rows[0].text)
    return [
        Told(prompt, row.text, row.ended, tuple(row.ids), tuple(row.log_probs) if sampling.log_probs else None)
        for prompt, row in zip(said, rows, strict=True)
    ]


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
    texts = [sample.prompt + sample.text for sample in samples]
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
