"""Samples as files: pictures with a grid, clips with a row of frames, sounds with their spectra, points with a scatter
plot, tables with a picture of each column, text and the tunes in it, arrays."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from genai import spectrogram, table_files, text_samples, tunes
from genai.contract import Spec
from genai.errors import OutputError
from genai.lettering import font_for, one_line, wrapped
from genai.text_samples import Told

Array = NDArray[np.generic]
RECORD = "samples.json"
_OURS = re.compile(
    r"(grid|overview)\.png|\d{5,}\.(png|gif|wav)|\d{5,}(-\d+)?\.(abc|mid)|samples\.(npz|csv|txt|jsonl)"
    r"|predictions\.csv|(samples|\d{5,})\.(csv|parquet)"
)
_TILE = 56  # least pixels of a picture's shorter side in a grid
_GRID_LIMIT = 400  # pictures in a grid
_PAIRS = 8  # originals in a row, above what was made from them
_STRIP = 12  # pictures of a strip, at most
_FRAMES = 8  # of a clip in a grid, at most
_GIF_SIDE, _GIF_MILLISECONDS = 128, 80  # least pixels of the shorter side, time of a picture
_AXIS_SIZE = 11
_PLOT = 640
_LONGEST_NAME = 30  # characters of a class's name in a grid
_TITLED_WIDTH = 112  # least pixels of a picture's width with a title below
_LINE, _TITLE_LINES, _TITLE_WIDTH = 16, 3, 190  # pixels of a line, lines below a picture, pixels beside a row


@contextmanager
def output(folder: Path) -> Iterator[None]:
    """Says which folder could not be written. Raises OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write samples: {error.strerror or error}", path=folder, fix="type --out DIR"
        ) from error


def refuse_foreign(folder: Path) -> None:
    """Raises OutputError where samples would overwrite a file that no earlier call wrote into the same folder."""
    known = _recorded(folder)
    with output(folder):
        found = sorted(os.listdir(folder))
    for name in found:
        if (_OURS.fullmatch(name) or name == RECORD) and name not in known:
            what = "this file is not of an earlier sample, and would be overwritten"
            raise OutputError(what, path=folder / name, fix="type --out DIR for another folder, or move it")


def clear(folder: Path) -> None:
    """Removes what an earlier call wrote into the same folder, and nothing else."""
    with output(folder):
        for name in _recorded(folder):
            (folder / name).unlink(missing_ok=True)


def _recorded(folder: Path) -> list[str]:
    """The samples.json of an earlier call and the files that it lists; none where there was no such call."""
    try:
        written = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = [name for name in written["files"] if isinstance(name, str) and _OURS.fullmatch(name)]
        return [RECORD, *names] if isinstance(written["checkpoint_sha256"], str) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    with output(folder):
        (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_npz(
    folder: Path, values: Array, labels: Sequence[int] | None, spec: Spec, prompts: Sequence[str] | None
) -> list[str]:
    """`samples.npz`: `samples` (uint8 NHWC for pictures, NTHWC for clips; int16 (N, C, T) for sounds, (N, T) where they
    are mono; float32 in data units for points, and for tables, of which a category is its number), `labels`, `prompts`,
    and of sounds `sample_rate`."""
    arrays = {"samples": _channels_last(values) if spec.modality in ("image", "video") else values}
    if spec.modality == "audio":
        samples = values[:, 0] if values.shape[1] == 1 else values
        arrays = {"samples": samples, "sample_rate": np.array(spec.sample_rate, dtype=np.int32)}
    if spec.modality == "table":
        arrays = table_files.arrays(values, spec)
    if labels is not None:
        arrays["labels"] = np.asarray(labels, dtype=np.int64)
    if prompts is not None:
        arrays["prompts"] = np.array(prompts, dtype=np.str_)
    with output(folder), open(folder / "samples.npz", "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return ["samples.npz"]


def write(
    folder: Path,
    values: Array,
    labels: Sequence[int] | None,
    spec: Spec,
    texts: Mapping[str, str],
    *,
    npz: bool = False,
    along: tuple[int, int] | None = None,
    beside: Array | None = None,
    columns: int | None = None,
    prompts: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    told: Sequence[Told] | None = None,
    known: Mapping[str, Sequence[str | None]] | None = None,
) -> list[str]:
    """Writes samples and returns the names of the files: with `npz` one samples.npz; else pictures, clips and sounds
    one by one and points as samples.csv, with an overview: `grid.png`, of sounds `overview.png`. `texts` go into every
    PNG.

    Pictures `along` closed paths through (samples, frames from one to the next) become one GIF for each path; clips and
    sounds on such paths stay one by one, in order. What was made from others is shown below these, `beside`. `columns`
    is how many stand in a row of the grid; of clips, one does. `titles` are written there. A PNG holds the prompt of
    its sample.
    """
    if npz:
        return _write_npz(folder, values, labels, spec, prompts)
    with output(folder):
        if told is not None:
            return [*text_samples.write(folder, told), *tunes.write(folder, [each.prompt + each.text for each in told])]
        if along is not None and spec.modality == "image":
            return _write_paths(folder, _channels_last(values), *along, texts)
        if spec.modality in _SINGLE:
            overview, save, ending = _SINGLE[spec.modality]
            digits = max(5, len(str(len(values))))
            names = [f"{i:0{digits}d}.{ending}" for i in range(len(values))]
            for i, (name, value) in enumerate(zip(names, values, strict=True)):
                save(value, folder / name, spec, {**texts, "genai:prompt": prompts[i]} if prompts else texts)
            if along is not None:
                chosen = _on_paths(values, *along)
                values, columns = chosen.reshape(-1, *spec.shape), chosen.shape[1]
            labels, titles = (None, None) if columns else (labels, titles)
            write_overview(folder / overview, values, labels, spec, texts, beside, columns, titles)
            return [overview, *names]
        if spec.modality == "table":
            write_overview(folder / "overview.png", values, labels, spec, texts)
            cells = table_files.rows_as_texts(values, labels, spec, known)
            return ["overview.png", *table_files.write_rows(folder, cells, spec.columns, "samples")]
        if spec.modality == "points":
            with open(folder / "samples.csv", "w", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                also = {name: given for name, given in (("label", labels), ("prompt", prompts)) if given is not None}
                rows.writerow([*(f"x{i}" for i in range(values.shape[1])), *also])
                for i, row in enumerate(values.tolist()):
                    rows.writerow([*(f"{v:.7g}" for v in row), *(given[i] for given in also.values())])
            write_overview(folder / "grid.png", values, labels, spec, texts)
            return ["grid.png", "samples.csv"]
        return _write_npz(folder, values, labels, spec, prompts)


def _on_paths(values: Array, count: int, steps: int) -> Array:
    """(rows, columns, ...): of each closed path that `values` lead along, evenly spaced ones."""
    paths = values.reshape(-1, count * steps, *values.shape[1:])
    columns = np.unique(np.linspace(0, count * steps, _STRIP, endpoint=False).astype(int))
    return paths[: _GRID_LIMIT // len(columns), columns]


def _save_picture(value: Array, path: Path, spec: Spec, texts: Mapping[str, str]) -> None:
    _save(_picture(np.moveaxis(value, 0, -1)), path, texts)


def save_picture(value: Array, path: Path) -> None:
    """(C, H, W) as a PNG. Raises OSError."""
    _picture(np.moveaxis(value, 0, -1)).save(path)


def _save_clip(value: Array, path: Path, spec: Spec, texts: Mapping[str, str]) -> None:
    _save_gif(np.moveaxis(value, 0, -1), path)


def _save_sound(value: Array, path: Path, spec: Spec, texts: Mapping[str, str]) -> None:
    with open(path, "wb") as opened, wave.open(opened, "wb") as file:
        file.setparams((len(value), 2, spec.sample_rate, 0, "NONE", ""))
        file.writeframes(np.ascontiguousarray(value.T, dtype="<i2").tobytes())


# Of what is written one by one: the overview beside it, how one is saved, and the ending of its name.
_SINGLE = {
    "image": ("grid.png", _save_picture, "png"),
    "video": ("grid.png", _save_clip, "gif"),
    "audio": ("overview.png", _save_sound, "wav"),
}


def _shown(values: Array, spec: Spec) -> tuple[Array, tuple[str, str] | None]:
    """(N, H, W, C): pictures themselves, of clips the frames that a grid shows of each, one after the other, of sounds
    their spectra with the ends of their axes."""
    if spec.modality == "image":
        return _channels_last(values), None
    if spec.modality == "video":
        frames = _channels_last(values[:, :, _spread(values.shape[2], _FRAMES)])
        return frames.reshape(-1, *frames.shape[2:]), None
    axes = spectrogram.axes(spec.shape[1], spec.sample_rate)
    return spectrogram.pictures(values.astype(np.int16), spec.sample_rate), axes


def _write_paths(folder: Path, frames: Array, count: int, steps: int, texts: Mapping[str, str]) -> list[str]:
    """`grid.png` with a strip for each way from one sample to the next, and `00000.gif` ..., a closed path each."""
    paths = frames.reshape(-1, count, steps, *frames.shape[1:])
    columns = _spread(steps, _STRIP)
    strips = np.concatenate([paths[:, :, columns], np.roll(paths[:, :, :1], -1, axis=1)], axis=2)
    rows = strips.reshape(-1, strips.shape[2], *frames.shape[1:])[: _GRID_LIMIT // strips.shape[2]]
    _save(grid(rows.reshape(-1, *frames.shape[1:]), None, (), columns=rows.shape[1]), folder / "grid.png", texts)
    names = []
    for number, path in enumerate(paths.reshape(len(paths), count * steps, *frames.shape[1:])):
        names.append(f"{number:05d}.gif")
        _save_gif(path, folder / names[-1])
    return ["grid.png", *names]


def _save_gif(frames: Array, path: Path) -> None:
    """Frames (T, H, W, C), again and again; of more than 256 colours a frame keeps those that are nearest."""
    factor = _factor(frames.shape[1:3], _GIF_SIDE)
    first, *others = (_enlarged(frame, factor) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=_GIF_MILLISECONDS, loop=0)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Which of so many are shown: all of them, or `most` from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def write_overview(
    path: Path,
    values: Array,
    labels: Sequence[int] | None,
    spec: Spec,
    texts: Mapping[str, str],
    beside: Array | None = None,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """One picture of all samples: a grid, with a row (or several) per class where there are labels, by title where
    there are `titles`, else of so many `columns`, or a scatter; of what was made from others below these, `beside`. A
    clip is a row of its frames.

    Raises OSError.
    """
    frames = min(spec.shape[1], _FRAMES) if spec.modality == "video" else None  # that are shown of each
    most = _GRID_LIMIT // (frames or 1)
    if beside is not None and spec.modality in _SINGLE:
        count = min(len(values), most // 2)
        shown, axes = _shown(np.concatenate([beside[:count], values[:count]]), spec)
        half = len(shown) // 2
        _save(pairs(shown[:half], shown[half:], frames or _PAIRS, axes), path, texts)
    elif spec.modality in _SINGLE:
        shown, axes = _shown(values[:most], spec)
        names = spec.cond["label"].names if labels is not None else ()
        if frames is not None and labels is not None:
            labels = [label for label in labels[:most] for _ in range(frames)]
        if frames is not None and titles is not None:
            titles = [title for title in titles[:most] for _ in range(frames)]
        _save(grid(shown, labels, names, frames or columns, axes, titles), path, texts)
    elif spec.modality == "table":
        _save(table_files.overview(values, labels, spec), path, texts)
    elif spec.modality == "points":
        _save(scatter(values.astype(np.float64)), path, texts)


def grid(
    pictures: Array,
    labels: Sequence[int] | None,
    names: Sequence[str],
    columns: int | None = None,
    axes: tuple[str, str] | None = None,
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures (N, H, W, C) uint8 side by side, enlarged by whole factors; rows by class, with the classes' names, or
    by title, which stands below each where no two have the same; of so many `columns` where they are stated.

    `axes` are the ends of a picture's axes, to the right and upwards from 0, written once, beside the first column.
    """
    pictures = pictures[:_GRID_LIMIT]
    count, height, width = pictures.shape[:3]
    if titles is not None:
        places = {title: i for i, title in enumerate(dict.fromkeys(titles[:count]))}
        names, labels = list(places), [places[title] for title in titles[:count]]
    names = [one_line(name) for name in names]
    if titles is None:
        names = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 2] + ".." for name in names]
    font, drawn = font_for(names, 13)
    names = [name if good else str(i) for i, (name, good) in enumerate(zip(names, drawn, strict=True))]  # no boxes
    captioned = titles is not None and len(names) == count
    factor = max(_factor((height, width), _TILE), _factor((width,), _TITLED_WIDTH) if captioned else 1)
    tile_height, tile_width, gap = height * factor, width * factor, 10 if captioned else 2
    columns, rows = _rows_of(None if captioned else labels, count, columns)
    texts = [[name] for name in names]  # of each name, line by line
    if titles is not None:
        room = (tile_width, _TITLE_LINES) if captioned else (_TITLE_WIDTH, max(1, tile_height // _LINE))
        texts = [wrapped(name, font, *room) for name in names]
    beside = [[] if label is None else texts[label] if label < len(texts) else [str(label)] for label, _ in rows]
    tops = [gap]  # of each row, and where the last one ends
    for _, members in rows:
        lines_below = max(len(texts[i]) for i in members) if captioned else 0
        tops.append(tops[-1] + tile_height + lines_below * _LINE + gap)
    margin = max((round(font.getlength(line)) for lines in beside for line in lines), default=0)
    margin = margin + 12 if margin else 0
    small = ImageFont.load_default(_AXIS_SIZE)
    below = 0
    if axes is not None:
        margin, below = margin + round(small.getlength(axes[1])) + 10, _AXIS_SIZE + 6
    width, height = margin + columns * (tile_width + gap) + gap, tops[-1]
    canvas = Image.new("RGB", (width, height + below), "white")
    pen = ImageDraw.Draw(canvas)
    if axes is not None:
        for text, place, anchor in (
            (axes[1], (margin - 4, gap), "rt"),
            ("0", (margin - 4, gap + tile_height), "rb"),
            ("0", (margin + gap, height + 2), "lt"),
            (axes[0], (margin + gap + tile_width, height + 2), "rt"),
        ):
            pen.text(place, text, fill="black", font=small, anchor=anchor)
    for (_, members), top, lines in zip(rows, tops, beside, strict=False):
        middle = top + tile_height // 2 - (len(lines) - 1) * _LINE // 2
        for number, line in enumerate(lines):
            pen.text((6, middle + number * _LINE), line, fill="black", font=font, anchor="lm")
        for column, i in enumerate(members):
            left = margin + gap + column * (tile_width + gap)
            canvas.paste(_enlarged(pictures[i], factor), (left, top))
            for number, line in enumerate(texts[i] if captioned else []):
                place = (left + tile_width // 2, top + tile_height + 3 + number * _LINE)
                pen.text(place, line, fill="black", font=font, anchor="ma")
    return canvas


def _rows_of(
    labels: Sequence[int] | None, count: int, columns: int | None
) -> tuple[int, list[tuple[int | None, list[int]]]]:
    """How many columns a grid of `count` pictures has, and which pictures are in each row, with the label that begins
    there."""
    if labels is None:
        columns = columns or math.ceil(math.sqrt(count))
        return columns, [(None, list(range(i, min(i + columns, count)))) for i in range(0, count, columns)]
    of_class: dict[int, list[int]] = {}
    for i in range(count):
        of_class.setdefault(labels[i], []).append(i)
    columns = columns or min(max(map(len, of_class.values())), 20)
    rows: list[tuple[int | None, list[int]]] = []
    for label in sorted(of_class):
        members = of_class[label]
        for start in range(0, len(members), columns):
            rows.append((label if start == 0 else None, members[start : start + columns]))
    return columns, rows


def pairs(originals: Array, made: Array, columns: int, axes: tuple[str, str] | None = None) -> Image.Image:
    """Rows of originals (N, H, W, C), each above a row of what was made from them."""
    count = min(len(made), _GRID_LIMIT // 2)
    starts = range(0, count, columns)
    rows = np.full((2 * len(starts), columns, *made.shape[1:]), 255, np.uint8)  # white where a last row is not full
    for number, start in enumerate(starts):
        end = min(start + columns, count)
        rows[2 * number, : end - start], rows[2 * number + 1, : end - start] = originals[start:end], made[start:end]
    return grid(rows.reshape(-1, *made.shape[1:]), None, (), columns=columns, axes=axes)


def scatter(points: NDArray[np.float64]) -> Image.Image:
    """The first two coordinates of points (N, D) in a frame that holds 99.8 % of them, with its limits written."""
    xy = np.stack([points[:, 0], points[:, min(1, points.shape[1] - 1)]], axis=1)
    low, high = np.quantile(xy, 0.001, axis=0), np.quantile(xy, 0.999, axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.1, 1e-6)
    margin, side = 40, _PLOT - 60
    canvas = Image.new("RGB", (_PLOT, _PLOT), "white")
    pen = ImageDraw.Draw(canvas, "RGBA")
    pen.rectangle((margin, 20, margin + side, 20 + side), outline=(0, 0, 0, 255))
    where = (xy - (centre - half)) / (2 * half) * side
    for x, y in where[((where >= 0) & (where <= side)).all(axis=1)]:
        left, top = margin + x, 20 + side - y
        pen.ellipse((left - 2, top - 2, left + 2, top + 2), fill=(31, 84, 148, 90))
    font = ImageFont.load_default(12)
    for fraction, anchor in ((0.0, "l"), (1.0, "r")):
        x, y = centre - half + 2 * half * fraction
        pen.text((margin + fraction * side, 26 + side), f"{x:.3g}", fill="black", font=font, anchor=anchor + "t")
        pen.text((margin - 4, 20 + side * (1 - fraction)), f"{y:.3g}", fill="black", font=font, anchor="rm")
    return canvas


def _channels_last(values: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(values, 1, -1))


def _factor(size: Sequence[int], least: int) -> int:
    """The whole factor that brings the shorter side to `least` pixels or just beyond."""
    return max(1, math.ceil(least / min(size)))


def _enlarged(pixels: Array, factor: int) -> Image.Image:
    picture = _picture(pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _picture(pixels: Array) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _save(picture: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    picture.save(path, pnginfo=info)
