"""Tables as files: drawn rows as CSV and parquet with the columns that were learned, a picture of each column, and
tables whose empty cells are filled in."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from genai.columns import Column, Place, layout, ranks
from genai.contract import Spec
from genai.data.table_rows import date_text, from_scores, texts_of
from genai.lettering import font_for, one_line, wrapped

Array = NDArray[np.generic]
_PANEL, _MARGIN, _HEAD, _FOOT = (220, 120), 14, 18, 16  # pixels of a column's picture, around it, above and below it
_POINTS = 2000  # that stand for a column's values in training
_ACROSS, _MOST_PANELS, _MOST_BARS, _BINS = 4, 32, 20, 24
_GREY, _BLUE = (205, 205, 205), (31, 84, 148)


def rows_as_texts(
    values: Array,
    labels: Sequence[int] | None,
    spec: Spec,
    known: Mapping[str, Sequence[str | None]] | None = None,
) -> dict[str, list[str]]:
    """Drawn rows (N, D), with their labels and what was `known` of them, as the texts of each column."""
    found = texts_of(values, spec.columns)
    target = next((column for column in spec.columns if column.role == "target"), None)
    if target is not None and labels is not None:
        found[target.name] = [target.values[label] for label in labels]
    for name, given in (known or {}).items():
        found[name] = [own if text is None else text for own, text in zip(found[name], given, strict=True)]
    return found


def arrays(values: Array, spec: Spec) -> dict[str, Array]:
    """`samples` (N, columns), of a category its number, NaN where a value is missing, and `columns`, their names."""
    names = [spec.columns[place.column].name for place in layout(spec.columns)]
    made = [numbers_of(values, place, spec.columns[place.column]).astype(np.float32) for place in layout(spec.columns)]
    return {"samples": np.stack(made, axis=1), "columns": np.array(names, dtype=np.str_)}


def numbers_of(values: Array, place: Place, column: Column) -> NDArray[np.float64]:
    """(N,) of a column in its own units, of a category its number, NaN where it is missing."""
    code = None if place.group is None else values[:, place.group].argmax(1)
    if place.number is None:
        assert code is not None
        return np.where(code < len(column.values), code, np.nan)
    numbers = from_scores(values[:, place.number], column)
    return numbers if code is None else np.where(code == 0, numbers, np.nan)


def write_rows(folder: Path, texts: Mapping[str, Sequence[str]], columns: Sequence[Column], name: str) -> list[str]:
    """`name`.csv, and `name`.parquet where the table was one. Raises OSError."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(texts)
        writer.writerows(zip(*texts.values(), strict=True))
    if not any(column.type for column in columns):
        return [f"{name}.csv"]
    import pyarrow as pa
    import pyarrow.parquet as parquet

    kinds = {column.name: column.type for column in columns}
    parquet.write_table(
        pa.table({key: _typed(own, kinds[key]) for key, own in texts.items()}), folder / f"{name}.parquet"
    )
    return [f"{name}.csv", f"{name}.parquet"]


def _typed(texts: Sequence[str], kind: str) -> Any:
    """An arrow array of texts in the type of that name."""
    import pyarrow as pa

    plain = pa.array([None if text == "" else text for text in texts], type=pa.string())
    if "string" in kind or kind == "null":
        return plain
    aliases = {"double": "float64", "float": "float32", "halffloat": "float16"}
    if (unit := re.match(r"timestamp\[(\w+)(?:, tz=(.+))?\]", kind)) is not None:
        return plain.cast(pa.timestamp("us")).cast(pa.timestamp(unit[1], unit[2]), safe=False)
    if (digits := re.match(r"decimal\d*\((\d+), (\d+)\)", kind)) is not None:
        return plain.cast(pa.decimal128(int(digits[1]), int(digits[2])))
    if kind.startswith(("int", "uint")):  # 3.0 is no whole number to arrow
        plain = pa.array([None if text == "" else _whole(text) for text in texts], type=pa.string())
    return plain.cast({"date32[day]": pa.date32(), "date64[ms]": pa.date64()}.get(kind) or aliases.get(kind, kind))


def _whole(text: str) -> str:
    return text if text.lstrip("+-").isdecimal() else str(round(float(text)))


def fill_parquet(folder: Path, path: Path, texts: Mapping[str, Sequence[str]], name: str) -> str:
    """The table at `path` as `name`.parquet, with these texts where they are not empty; columns that are not named are
    written as they were read. Raises OSError."""
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    for key, made in texts.items():
        own = table.column(key).combine_chunks()
        coded = pa.types.is_dictionary(own.type)
        plain = own.dictionary_decode() if coded else own
        new = _typed(made, str(plain.type)).cast(plain.type)
        filled = compute.if_else(compute.is_valid(new), new, plain)
        filled = filled.dictionary_encode() if coded else filled
        place = table.schema.get_field_index(key)
        table = table.set_column(place, table.schema.field(place).with_type(filled.type), filled)
    parquet.write_table(table, folder / f"{name}.parquet")
    return f"{name}.parquet"


# -- a picture of each column ------------------------------------------------------------------------------------------


def overview(values: Array, labels: Sequence[int] | None, spec: Spec) -> Image.Image:
    """How the values of each column are spread, blue, over how they are in the training data, grey."""
    shown = [(place, spec.columns[place.column]) for place in layout(spec.columns)][:_MOST_PANELS]
    across = min(_ACROSS, len(shown))
    width, height = _PANEL[0] + 2 * _MARGIN, _PANEL[1] + _HEAD + _FOOT + _MARGIN
    below = -(-len(shown) // across) * height + _MARGIN
    canvas = Image.new("RGB", (across * width, below + _FOOT), "white")
    names = [one_line(column.name) for _, column in shown]
    font, _ = font_for([*names, *(value for _, column in shown for value in column.values)], 12)
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, below), "grey: the training data, blue: drawn", fill="black", font=font, anchor="lt")
    for number, (place, column) in enumerate(shown):
        left, top = number % across * width + _MARGIN, number // across * height + _MARGIN
        real, drawn, ends = _bars(values, place, column)
        title = (wrapped(one_line(column.name), font, _PANEL[0], 1) or [""])[0]
        pen.text((left, top), title, fill="black", font=font)
        _draw_bars(pen, real, drawn, left, top + _HEAD)
        floor = top + _HEAD + _PANEL[1]
        pen.line((left, floor, left + _PANEL[0], floor), fill="black")
        for text, x, anchor in ((ends[0], left, "lt"), (ends[1], left + _PANEL[0], "rt")):
            pen.text(
                (x, floor + 2),
                (wrapped(text, font, _PANEL[0] // 2 - 4, 1) or [""])[0],
                fill="black",
                font=font,
                anchor=anchor,
            )
    return canvas


def _draw_bars(pen: ImageDraw.ImageDraw, real: Array, drawn: Array, left: int, top: int) -> None:
    most = max(float(real.max(initial=0)), float(drawn.max(initial=0)), 1e-9)
    step = _PANEL[0] / max(1, len(real))
    for i, (here, there) in enumerate(zip(real.tolist(), drawn.tolist(), strict=True)):
        x, end = left + i * step, left + (i + 1) * step - 1
        high, own = _PANEL[1] * here / most, _PANEL[1] * there / most
        pen.rectangle((x, top + _PANEL[1] - high, end, top + _PANEL[1]), fill=_GREY)
        pen.rectangle((x, top + _PANEL[1] - own, end, top + _PANEL[1]), outline=_BLUE)


def _bars(values: Array, place: Place, column: Column) -> tuple[Array, Array, tuple[str, str]]:
    """Shares of the real and of the drawn values, and what stands at the two ends."""
    if place.number is None:
        assert place.group is not None
        codes = values[:, place.group].argmax(1)
        codes = codes[codes < len(column.values)]
        order = np.sort(np.argsort(-np.array(column.counts), kind="stable")[:_MOST_BARS])
        real = np.array(column.counts, dtype=np.float64)[order] / max(1, sum(column.counts))
        drawn = np.bincount(codes, minlength=len(column.values))[order] / max(1, len(codes))
        return real, drawn, (column.values[order[0]], column.values[order[-1]] if len(order) > 1 else "")
    there = np.ones(len(values), dtype=bool) if place.group is None else values[:, place.group].argmax(1) == 0
    knots = np.interp(np.linspace(0, 1, _POINTS), ranks(len(column.quantiles)), column.quantiles)
    low, high = np.quantile(knots, [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
    real, drawn = (
        np.histogram(part.clip(edges[0], edges[-1]), edges)[0] / max(1, len(part))
        for part in (knots, from_scores(values[there, place.number], column))
    )
    if column.kind == "date":
        return real, drawn, (date_text(low, column.form), date_text(high, column.form))
    return real, drawn, (f"{low:.5g}", f"{high:.5g}")


# -- tables that are filled in -----------------------------------------------------------------------------------------


def filled_text(text: str, separator: str, fill: Callable[[int, int], str | None]) -> Iterator[str]:
    """The text of a CSV file with other fields where `fill` (row below the header, column) gives one; all else stays
    as it is, byte for byte."""
    field = re.compile(rf'((?:"(?:[^"]|"")*")|[^{re.escape(separator)}\r\n]*)({re.escape(separator)}|\r\n|\n|\r|\Z)')
    place, row, column = 0, -1, 0
    while place < len(text):
        found = field.match(text, place)
        assert found is not None
        own, end = found.groups()
        new = fill(row, column) if row >= 0 and (own or column or end == separator) else None
        yield (own if new is None else _quoted(new, separator)) + end
        place = found.end()
        if end == separator:
            column += 1
        elif own or column:  # a blank line is no row
            row, column = row + 1, 0
        if not end:
            return


def _quoted(text: str, separator: str) -> str:
    if not any(sign in text for sign in (separator, '"', "\n", "\r")):
        return text
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="").writerow([text])
    return line.getvalue()
