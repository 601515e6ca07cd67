"""Pictures as uint8 (C, H, W): decoded from files or taken from arrays, cropped and resized alike."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageOps

from genai.data.source import NOUNS, refuse_foreign_settings
from genai.errors import DataError, GenaiError
from genai.schema import DataConfig

A = TypeVar("A")
B = TypeVar("B")

MAX_PIXELS = 64_000_000  # of one picture, before it is decoded
_LARGE_PIXELS = 8_000_000  # of pictures that are decoded one at a time: the largest takes 1.2 GB meanwhile
_large = threading.Lock()
LARGEST_KEPT = 64  # pixels a side: what is larger is resized unless data.size says otherwise
# No format that runs a program or reads other files to be decoded.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_FEW = 8  # pictures that are not worth the start of threads
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})

_one_of_several = False  # this process is one of those that read


def be_one_of_several() -> None:
    """Called in each process that reads beside others: they share the processors already."""
    global _one_of_several
    _one_of_several = True


# The size is checked here, with an error that names the file; Pillow's own warning would only stand beside it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Look:
    """What the header of a picture says."""

    width: int
    height: int
    grey: bool


@dataclass(frozen=True)
class Encoded:
    """A picture out of a larger file: the bytes that a file of its own would hold, and its name in errors."""

    content: bytes
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Frame:
    """What every picture of a set is brought to. Without `fits` a picture of another size is an error."""

    channels: int
    height: int
    width: int
    fits: bool
    how: Literal["crop", "pad", "stretch"] = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def num_bytes(self) -> int:
        return self.channels * self.height * self.width


def look_at(picture: Path | Encoded) -> Look:
    """Size and colour of a picture from its header. Raises DataError for what is none, or is too large to decode."""
    try:
        with _open(picture) as image:
            width, height = image.size
            if image.format == "TIFF":  # whose size Pillow states before or after turning it, by its version
                width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
            # The base class's: that of PNG files would decode the picture.
            if Image.Image.getexif(image).get(0x0112, 1) >= 5:  # stored lying on its side
                width, height = height, width
            return Look(width, height, image.mode in _GREY_MODES)
    except GenaiError:
        raise
    except Exception as error:  # headers of damaged files raise nearly everything
        raise _bad_picture(picture, error) from error


def decode(picture: Path | Encoded, frame: Frame) -> np.ndarray:
    """(C, H, W) uint8, upright, first frame, alpha over white. Raises DataError for what cannot be read."""
    try:
        with _open(picture) as opened:
            if frame.fits:  # a JPEG far too large is decoded at a fraction; it may yet be turned on its side
                opened.draft(None, (2 * max(frame.width, frame.height),) * 2)
            if opened.mode == "I" and opened.format == "TIFF":
                raise ValueError("signed or 32-bit whole numbers")
            with _large if opened.width * opened.height > _LARGE_PIXELS else nullcontext():
                return _as_array(fit(_upright(opened, frame.channels), frame, picture))
    except GenaiError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise _bad_picture(picture, error) from error


def _upright(opened: Image.Image, channels: int) -> Image.Image:
    """The picture in memory as L or RGB, turned as its camera was held."""
    ImageOps.exif_transpose(opened, in_place=True)  # a copy of each picture would cost as much as to resize it
    inverted = opened.mode == "CMYK" and opened.format == "JPEG" and "adobe" not in opened.info
    # Pillow takes every CMYK for Adobe's, which are stored inverted.
    image = _in_colours(ImageChops.invert(opened) if inverted else opened, channels)
    image.load()
    return image


def fit(image: Image.Image, frame: Frame, path: object = None) -> Image.Image:
    """The picture in the frame, resized with antialiasing: the centre in the frame's proportions (crop), all of it on
    white (pad), or all of it in other proportions (stretch)."""
    width, height = image.size
    if (width, height) == (frame.width, frame.height):
        return image
    if not frame.fits:
        raise DataError(
            f"a picture of {width}x{height} among pictures of {frame.width}x{frame.height}",
            path=path,
            fix=f"type data.size={size_text(frame.height, frame.width)}",
        )
    across, down = width / frame.width, height / frame.height
    if frame.how == "pad":
        inner = max(1, round(width / max(across, down))), max(1, round(height / max(across, down)))
        canvas = Image.new(image.mode, (frame.width, frame.height), "white")
        corner = (frame.width - inner[0]) // 2, (frame.height - inner[1]) // 2
        canvas.paste(image.resize(inner, Image.Resampling.LANCZOS), corner)
        return canvas
    scale = min(across, down)
    if frame.how == "stretch" or across == down:
        return image.resize((frame.width, frame.height), Image.Resampling.LANCZOS)
    # Rounding may lead out of the picture by 1e-15, which Pillow refuses.
    left, top = max(0.0, (width - frame.width * scale) / 2), max(0.0, (height - frame.height * scale) / 2)
    box = (left, top, min(width, left + frame.width * scale), min(height, top + frame.height * scale))
    return image.resize((frame.width, frame.height), Image.Resampling.LANCZOS, box=box)


def size_text(height: int, width: int) -> str:
    """As data.size is typed."""
    return str(height) if height == width else f"[{height},{width}]"


def frame_of(looks: Iterable[Look], config: DataConfig, modality: str = "image") -> tuple[Frame, list[str]]:
    """The frame for pictures that look like these, or the frames of clips ("video"), and what the user should know
    about it. Raises ConfigError for settings of other data."""
    refuse_foreign_settings(config, modality)
    looks = list(looks)
    sizes = Counter((look.width, look.height) for look in looks)
    channels = config.channels or (1 if all(look.grey for look in looks) else 3)
    (width, height), _ = sizes.most_common(1)[0]
    if config.size is not None:
        height, width = (config.size, config.size) if isinstance(config.size, int) else config.size
        return Frame(channels, height, width, fits=True, how=config.fit), []
    if len(sizes) == 1 and max(width, height) <= LARGEST_KEPT:
        return Frame(channels, height, width, fits=False), []
    sides = sorted(min(size) for size in sizes.elements())
    size = max(4, min(LARGEST_KEPT, sides[len(sides) // 2]))
    mixed = f"{len(sizes)} sizes, shorter sides of {sides[0]} to {sides[-1]}"
    found = f"{width}x{height}" if len(sizes) == 1 else mixed
    note = f"{NOUNS[modality]} ({found}) become {size}x{size}; data.size=N for another size"
    return Frame(channels, size, size, fits=True, how=config.fit), [note]


def prepare(images: np.ndarray, frame: Frame) -> np.ndarray:
    """(N, H, W, C) uint8 pictures of an array -> (N, C, H, W) in the frame."""
    if images.shape[3] != frame.channels:
        images = grey(images) if frame.channels == 1 else np.repeat(images, 3, axis=3)
    if images.shape[1:3] != (frame.height, frame.width):
        images = np.stack(in_threads(lambda i: _resized(images[i], frame), range(len(images))))
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def grey(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> (N, H, W, 1): ITU-R 601 luma in the whole numbers that Pillow uses."""
    weighed = images.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def in_threads(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """The function's results in order. Decoding and resizing release the interpreter, so threads serve as well as
    processes and copy nothing."""
    threads = num_threads()
    if threads == 1 or len(items) <= _FEW:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def num_threads() -> int:
    if _one_of_several:
        return 1
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _resized(image: np.ndarray, frame: Frame) -> np.ndarray:
    small = np.asarray(fit(Image.fromarray(image[..., 0] if frame.channels == 1 else image), frame))
    return small[..., None] if frame.channels == 1 else small


@contextmanager
def _open(picture: Path | Encoded) -> Iterator[Image.Image]:
    try:
        if isinstance(picture, Encoded):
            image = Image.open(io.BytesIO(picture.content), formats=_FORMATS)
        elif not picture.is_file():  # a pipe of that name would never end
            raise OSError("the link leads nowhere" if picture.is_symlink() else "not a file")
        else:
            image = Image.open(picture, formats=_FORMATS)
    except Exception as error:  # headers of damaged files raise nearly everything
        raise _bad_picture(picture, error) from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(
                f"a picture of {width}x{height} pixels, at most {MAX_PIXELS // 1_000_000} million are decoded",
                path=picture,
                fix="make it smaller, or type data.on_bad=skip",
            )
        yield image


def _bad_picture(picture: Path | Encoded, error: BaseException) -> DataError:
    if isinstance(error, Image.UnidentifiedImageError):
        empty = not picture.content if isinstance(picture, Encoded) else picture.stat().st_size == 0
        reason = "it is empty" if empty else "its content is no picture format that is read"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
    else:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DataError(f"not a readable picture ({reason})", path=picture, fix="remove it, or type data.on_bad=skip")


def _in_colours(image: Image.Image, channels: int) -> Image.Image:
    """The picture as L or RGB."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "F":
        raise ValueError("32-bit floating point values")
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.int32)  # 16 bits, also where Pillow says "I"
        values = np.where(values == image.info.get("transparency"), 65535, values)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _as_array(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
