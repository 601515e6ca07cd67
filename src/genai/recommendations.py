"""What a model of ratings recommends to users, as a file and on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genai.console import Console, table_text
from genai.contract import Request, Spec
from genai.data.source import Split
from genai.errors import ConfigError
from genai.factory import Trained
from genai.schema import SamplingConfig
from genai.writers import output

_COUNT, _SHOWN = 10, 3  # items of a user; users on the terminal
_COLUMNS = ("user", "rank", "item", "title", "score")
_NAMED = 5  # users that an error names


@dataclass(frozen=True)
class Recommended:
    """The best items of a user that they have not had, with their scores."""

    user: str
    items: tuple[int, ...]
    scores: tuple[float, ...]

    def rows(self, spec: Spec) -> list[dict[str, str | int | float]]:
        titles = spec.titles or ("",) * spec.classes
        return [
            dict(zip(_COLUMNS, (self.user, rank, spec.names[item], titles[item], score), strict=True))
            for rank, (item, score) in enumerate(zip(self.items, self.scores, strict=True), start=1)
        ]


def for_labels(
    trained: Trained, labels: Sequence[str], count: int | None, sampling: SamplingConfig
) -> list[Recommended]:
    """Raises ConfigError for a user that the model does not know."""
    known = trained.model.spec.cond["input"].names
    place = {name: number for number, name in enumerate(known)}
    if unknown := [label for label in labels if label not in place]:
        some = ", ".join(known[:_NAMED]) + ", ..." * (len(known) > _NAMED)
        what = f"no user '{unknown[0]}' among the {len(known):,} that the model knows ({some})"
        raise ConfigError(what, fix="type --label USER, or --input FILE with what a new user had")
    users = torch.tensor([place[label] for label in labels])
    batches = ((part, None) for part in users.split(sampling.batch_size))
    return _best(trained, list(labels), batches, count, sampling)


def for_split(trained: Trained, split: Split, count: int | None, sampling: SamplingConfig) -> list[Recommended]:
    """For users of data, who had what is there beside what the model knows of."""
    assert split.file_of is not None
    names = [split.file_of(i) for i in range(len(split))]
    found = (split.fetch(part) for part in torch.arange(len(split)).split(sampling.batch_size))
    batches = ((batch.cond["input"], batch.x) for batch in found)
    return _best(trained, names, batches, count, sampling)


def _best(
    trained: Trained,
    names: Sequence[str],
    batches: Iterator[tuple[Tensor, Tensor | None]],
    count: int | None,
    sampling: SamplingConfig,
) -> list[Recommended]:
    model, runtime = trained.model, trained.runtime
    found: list[Recommended] = []
    for users, had in batches:
        cond = {"input": users, **({} if had is None else {"had": had})}
        request = Request(
            count=len(users),
            cond={name: value.to(runtime.device) for name, value in cond.items()},
            generators=[],
            device=runtime.device,
            dtype=runtime.dtype,
            sampling=sampling,
        )
        with torch.inference_mode(), runtime.autocast():
            best = model.draw(request).topk(min(count or _COUNT, model.spec.classes))
        for scores, items in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            left = [(item, score) for item, score in zip(items, scores, strict=True) if score > -torch.inf]
            items, scores = zip(*left, strict=True) if left else ((), ())
            found.append(Recommended(names[len(found)], tuple(items), tuple(scores)))
    return found


def write(folder: Path, found: Sequence[Recommended], spec: Spec) -> list[str]:
    """`predictions.csv`: a row for each item, the best of a user first."""
    with output(folder), open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for each in found:
            writer.writerows(row | {"score": f"{row['score']:.6g}"} for row in each.rows(spec))
    return ["predictions.csv"]


def show(found: Sequence[Recommended], spec: Spec, console: Console) -> None:
    """The first users' as tables."""
    for each in found[:_SHOWN]:
        rows = [{key: value for key, value in row.items() if key != "user"} for row in each.rows(spec)]
        if not spec.titles:
            rows = [{key: value for key, value in row.items() if key != "title"} for row in rows]
        text = table_text(f"user {each.user}", rows)
        console.note("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
    if len(found) > _SHOWN:
        console.note(f"... and {len(found) - _SHOWN:,} more users in predictions.csv")
