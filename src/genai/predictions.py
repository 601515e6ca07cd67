"""What a discriminative model says of inputs, as figures and as files."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genai.columns import Column
from genai.contract import Model, Request, Spec
from genai.data.source import Split
from genai.data.table_rows import number_texts, stepped
from genai.device import Runtime
from genai.lettering import font_for, one_line, wrapped
from genai.metrics import classification, regression
from genai.schema import SamplingConfig
from genai.writers import output

_CELL, _FONT, _NAME_WIDTH, _MOST_CLASSES = 44, 13, 130, 60
_SIDE, _MARGIN, _DOT = 400, 60, 3  # pixels of a picture of numbers
_AXES = ("down: true", "across: predicted")  # of the confusion matrix
_BLUE = np.array([31, 84, 148])


@dataclass(frozen=True)
class ClassAnswers:
    scores: NDArray[np.floating]  # (N, classes)
    labels: NDArray[np.int64]  # (N,), -1 where there are none
    names: tuple[str, ...]
    probable: bool  # whether the scores are probabilities

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def some_known(self) -> bool:
        return bool((self.labels >= 0).any())

    def figures(self) -> dict[str, Any]:
        """Those of the classes, and the confusion matrix, rows of true and columns of chosen classes."""
        matrix = classification.confusion(self.scores.argmax(1), self.labels, self.scores.shape[1])
        found = classification.figures(self.scores, self.labels, probable=self.probable)
        named = {"f1_and_auc_of": self.names[1]} if len(self.names) == 2 else {}
        return {**found, **named, "classes": list(self.names), "confusion": matrix.tolist()}

    def columns(self) -> list[str]:
        kind = "p" if self.probable else "score"
        return ["predicted", *(["label"] if self.some_known else []), *(f"{kind}({name})" for name in self.names)]

    def row(self, i: int) -> list[str]:
        label = self.labels[i]
        own = ["" if label < 0 else self.names[label]] if self.some_known else []
        scores = self.scores[i]
        return [self.names[int(scores.argmax())], *own, *(f"{value:.9g}" for value in scores)]

    def picture(self) -> tuple[str, Image.Image | None]:
        matrix = classification.confusion(self.scores.argmax(1), self.labels, self.scores.shape[1])
        return "confusion", confusion_picture(matrix.tolist(), self.names)


@dataclass(frozen=True)
class NumberAnswers:
    values: NDArray[np.floating]  # (N, quantiles, or 1), in data units
    real: NDArray[np.floating]  # (N,), NaN where they are not known
    name: str
    quantiles: tuple[float, ...]
    decimals: int  # that a number in single precision has, in these units; below 0: tens, hundreds
    column: Column | None  # as a table writes it

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def predicted(self) -> NDArray[np.floating]:
        found: NDArray[np.floating] = self.values[:, regression.middle(self.quantiles)]
        return found

    @property
    def some_known(self) -> bool:
        return bool(np.isfinite(self.real).any())

    def figures(self) -> dict[str, Any]:
        found = regression.figures(self.predicted, self.real)
        if self.quantiles:
            found |= regression.figures_of_quantiles(self.values, self.real, self.quantiles)
        return found

    def columns(self) -> list[str]:
        return ["predicted", *([self.name] if self.some_known else []), *(f"quantile({q:g})" for q in self.quantiles)]

    def row(self, i: int) -> list[str]:
        quantiles = self.values[i] if self.quantiles else []
        predicted, *others = (self._text(value) for value in (self.predicted[i], *quantiles))
        if not self.some_known:
            return [predicted, *others]
        real = self.real[i]
        own = ""
        if np.isfinite(real):
            own = self._text(real) if self.column is None else number_texts(np.array([real]), self.column)[0]
        return [predicted, own, *others]

    def _text(self, value: float) -> str:
        if self.column is not None and self.column.kind == "date":
            return number_texts(np.array([value]), self.column)[0]
        return f"{np.round(value, self.decimals) + 0.0:.15g}"

    def picture(self) -> tuple[str, Image.Image | None]:
        return "predicted", number_picture(self.predicted, self.real, self.name)


Answers = ClassAnswers | NumberAnswers


@torch.inference_mode()
def answers(
    model: Model, split: Split, runtime: Runtime, sampling: SamplingConfig, count: int | None = None
) -> Answers:
    """What the model says of the first `count` samples."""
    split = split.to(runtime.device)
    rows, targets = [], []
    number = len(split) if count is None else min(count, len(split))
    for part in torch.arange(number).split(sampling.batch_size):
        batch = split.fetch(part).to(runtime.device, runtime.dtype)
        request = Request(
            count=len(batch),
            cond=batch.cond,
            generators=[],
            device=runtime.device,
            dtype=runtime.dtype,
            sampling=sampling,
        )
        with runtime.autocast():
            rows.append(model.draw(request).double().cpu())
        targets.append(batch.x.cpu())
    found, given, spec = torch.cat(rows).numpy(), torch.cat(targets).numpy(), model.spec
    if spec.modality != "value":
        return ClassAnswers(found, given, names_of(spec), model.probable)
    scale, offset = spec.scale[0], spec.offset[0]
    name = spec.columns[0].name if spec.columns else "value"
    # Targets are in deviations, in single precision: of these six digits behind the point are right.
    decimals = 6 - math.ceil(math.log10(scale * max(1.0, np.nanmax(np.abs(given), initial=0.0))))
    real, column = given.astype(np.float64) * scale + offset, spec.columns[0] if spec.columns else None
    real = stepped(real, column) if column is not None and column.step else real.round(decimals)
    return NumberAnswers(found * scale + offset, real, name, model.quantiles, decimals, column)


def write(folder: Path, found: Answers, file_of: Callable[[int], str] | None = None) -> list[str]:
    """`predictions.csv`: the file of the input, or its number, and what is predicted for it: the class, the one it has
    where that is known, and for each class its probability, or its score; of a number, its quantiles."""
    with output(folder), open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["input", *found.columns()])
        writer.writerows([file_of(i) if file_of else i, *found.row(i)] for i in range(len(found)))
    return ["predictions.csv"]


def names_of(spec: Spec) -> tuple[str, ...]:
    return spec.names or tuple(map(str, range(spec.classes)))


def confusion_picture(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Image.Image | None:
    """The confusion matrix, a row for each true class, darker where more of it are; None of too many classes."""
    count = len(matrix)
    if count > _MOST_CLASSES:
        return None
    (font, _), small = font_for(names, _FONT), ImageFont.load_default(_FONT)
    shown = [(wrapped(one_line(name), font, _NAME_WIDTH, 1) or [""])[0] for name in names]
    beside = round(max(*(font.getlength(name) for name in shown), *map(small.getlength, _AXES))) + 12
    canvas = Image.new("RGB", (beside + count * _CELL + 8, beside + count * _CELL + 8), "white")
    pen = ImageDraw.Draw(canvas)
    for line, text in enumerate(_AXES):
        pen.text((6, 6 + line * (_FONT + 4)), text, fill=(110, 110, 110), font=small)
    for r, name in enumerate(shown):
        middle = beside + r * _CELL + _CELL // 2
        pen.text((beside - 6, middle), name, fill="black", font=font, anchor="rm")
        below = Image.new("RGB", (beside, _FONT + 6), "white")
        ImageDraw.Draw(below).text((6, 0), name, fill="black", font=font)
        canvas.paste(below.rotate(90, expand=True), (middle - _FONT // 2 - 3, 0))
        for c, value in enumerate(matrix[r]):
            share = value / max(1, sum(matrix[r]))
            left, top = beside + c * _CELL, beside + r * _CELL
            colour = tuple((255 - share * (255 - _BLUE)).astype(int))
            pen.rectangle((left, top, left + _CELL - 2, top + _CELL - 2), fill=colour)
            place = (left + _CELL // 2 - 1, top + _CELL // 2 - 1)
            pen.text(place, str(value), fill="white" if share > 0.5 else "black", font=small, anchor="mm")
    return canvas


def number_picture(predicted: NDArray[np.floating], real: NDArray[np.floating], name: str) -> Image.Image | None:
    """What was predicted, upwards, over what was so, to the right: on the diagonal where both agree, darker where more
    of them are; None where no number can be drawn."""
    both = np.stack([real, predicted])
    if not np.isfinite(both).all() or not both.size:
        return None
    low, high = float(both.min()), float(both.max())
    x, y = ((both - low) / ((high - low) or 1) * (_SIDE - 1)).astype(int)
    density = np.zeros((_SIDE + 2 * _DOT, _SIDE + 2 * _DOT))
    for down in range(_DOT):
        for right in range(_DOT):
            np.add.at(density, (_SIDE - 1 - y + down, x + right), 1)
    shade = 1 - 0.5 ** density[:_SIDE, :_SIDE, None]
    canvas = Image.new("RGB", (_SIDE + _MARGIN + 10, _SIDE + 40), "white")
    canvas.paste(Image.fromarray((255 - shade * (255 - _BLUE)).astype(np.uint8)), (_MARGIN, 10))
    pen, small = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    (font, _), bottom, right = font_for([name], _FONT), _SIDE + 10, _SIDE + _MARGIN
    pen.rectangle((_MARGIN - 1, 9, right, bottom), outline="black")
    pen.line((_MARGIN, bottom - 1, right - 1, 10), fill=(160, 160, 160))
    shown = (wrapped(one_line(name), font, _SIDE // 2, 1) or [""])[0]
    pen.text((_MARGIN, bottom + 6), f"{low:.5g}", fill="black", font=small, anchor="la")
    pen.text((right, bottom + 6), f"{high:.5g}", fill="black", font=small, anchor="ra")
    pen.text((_MARGIN + _SIDE // 2, bottom + 6), shown, fill="black", font=font, anchor="ma")
    pen.text((_MARGIN - 6, 10), f"{high:.5g}", fill="black", font=small, anchor="ra")
    pen.text((_MARGIN - 6, bottom), f"{low:.5g}", fill="black", font=small, anchor="rd")
    beside = Image.new("RGB", (_SIDE // 2, _FONT + 6), "white")
    ImageDraw.Draw(beside).text((_SIDE // 4, 2), "predicted", fill="black", font=small, anchor="ma")
    canvas.paste(beside.rotate(90, expand=True), (_MARGIN - _FONT - 14, 10 + _SIDE // 4))
    return canvas
