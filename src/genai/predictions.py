"""What a discriminative model says of inputs, as figures and as files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genai.contract import Model, Request, Spec
from genai.data.source import Split
from genai.device import Runtime
from genai.lettering import font_for, one_line, wrapped
from genai.metrics import classification
from genai.schema import SamplingConfig
from genai.writers import output

_CELL, _FONT, _NAME_WIDTH, _MOST_CLASSES = 44, 13, 130, 60
_BLUE = np.array([31, 84, 148])


@torch.inference_mode()
def predicted(
    model: Model, split: Split, runtime: Runtime, sampling: SamplingConfig, count: int | None = None
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """(N, classes) of the first `count` samples, and their labels (N,), -1 where there are none."""
    split = split.to(runtime.device)
    rows, labels = [], []
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
        labels.append(batch.x.cpu())
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()


def figures(scores: NDArray[np.floating], labels: NDArray[np.int64], *, probable: bool) -> dict[str, Any]:
    """Those of the classes, and the confusion matrix, rows of true and columns of chosen classes."""
    matrix = classification.confusion(scores.argmax(1), labels, scores.shape[1])
    return {**classification.figures(scores, labels, probable=probable), "confusion": matrix.tolist()}


def write(
    folder: Path,
    scores: NDArray[np.floating],
    labels: NDArray[np.int64],
    names: Sequence[str],
    *,
    probable: bool,
    file_of: Callable[[int], str] | None = None,
) -> list[str]:
    """`predictions.csv`: the file of the input, or its number, the class chosen for it, the one it has where that is
    known, and for each class its probability, or its score."""
    known = bool((labels >= 0).all())
    kind = "p" if probable else "score"
    columns = ["input", "predicted", *(["label"] if known else []), *(f"{kind}({name})" for name in names)]
    with output(folder), open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i, (row, label) in enumerate(zip(scores, labels, strict=True)):
            own = [names[label]] if known else []
            writer.writerow(
                [file_of(i) if file_of else i, names[int(row.argmax())], *own, *(f"{value:.6g}" for value in row)]
            )
    return ["predictions.csv"]


def names_of(spec: Spec) -> tuple[str, ...]:
    return spec.names or tuple(map(str, range(spec.classes)))


def picture(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Image.Image | None:
    """The confusion matrix, a row for each true class, darker where more of it are; None of too many classes."""
    count = len(matrix)
    if count > _MOST_CLASSES:
        return None
    (font, _), small = font_for(names, _FONT), ImageFont.load_default(_FONT)
    shown = [(wrapped(one_line(name), font, _NAME_WIDTH, 1) or [""])[0] for name in names]
    beside = round(max(font.getlength(name) for name in shown)) + 12
    canvas = Image.new("RGB", (beside + count * _CELL + 8, beside + count * _CELL + 8), "white")
    pen = ImageDraw.Draw(canvas)
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
