"""Texts in pictures: on one line, wrapped, in a font that has their characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FONTS = (  # of Latin, Greek and Cyrillic letters, then of Chinese and most others, as the systems name them
    "DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf", "Helvetica.ttc",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc", "STHeiti Light.ttc",
    "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf", "simsun.ttc",
)  # fmt: skip


def one_line(text: str) -> str:
    """Without line breaks, which end the drawing of a text."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def wrapped(text: str, font: Font, width: int, most_lines: int) -> list[str]:
    """Lines no wider than so many pixels, broken between words where there are some; what is left over becomes "..".

    A line holds one character at least.
    """
    lines: list[str] = []
    while text:
        fitting = _fitting(text, font, width)
        if fitting == len(text):
            return [*lines, text]
        if len(lines) == most_lines - 1:
            return [*lines, text[: _fitting(text, font, width - round(font.getlength("..")))].rstrip() + ".."]
        space = text.rfind(" ", 1, fitting + 1)
        end = space if space > 0 else fitting
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return lines


def _fitting(text: str, font: Font, width: int) -> int:
    """How many of its first characters are no wider than that; one at least."""
    return next((i for i in range(1, len(text)) if font.getlength(text[: i + 1]) > width), len(text))


def font_for(names: Sequence[str], size: int) -> tuple[Font, list[bool]]:
    """The first font that has the characters of most names, and of which names it has all: Pillow's own, which is
    ASCII, then the system's."""
    best: tuple[Font, list[bool]] | None = None
    for font_name in (None, *_FONTS):
        with suppress(OSError):
            font = ImageFont.load_default(size) if font_name is None else ImageFont.truetype(font_name, size)
            missing = bytes(font.getmask("\uffff"))
            has = {c: bytes(font.getmask(c)) != missing for c in set("".join(names))} | {" ": True}
            drawn = [all(has[c] for c in name) for name in names]
            if best is None or sum(drawn) > sum(best[1]):
                best = font, drawn
            if all(drawn):
                break
    assert best is not None  # Pillow's own is always there
    return best
