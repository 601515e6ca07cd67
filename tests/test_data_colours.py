"""Every kind of picture that is read, against its values worked out by hand; what is not read is refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genai.data.images import Encoded, Frame, decode, fit, frame_of, look_at
from genai.errors import DataError
from pictures import config, one_line, opened, pixels

RANDOM = np.random.RandomState(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(content: bytes, channels: int | None = None) -> np.ndarray:
    """(H, W, C) int, from bytes and from a file alike."""
    picture = Encoded(content, "a")
    frame, _ = frame_of([look_at(picture)], config("a", channels=channels))
    return decode(picture, frame).transpose(1, 2, 0).astype(int)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def luma(colours: np.ndarray) -> np.ndarray:
    """ITU-R 601-2."""
    return colours @ np.array([0.299, 0.587, 0.114])


def near(ours: np.ndarray, expected: np.ndarray, within: float = 1.0) -> None:
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= within


def test_grey_colour_and_their_conversion() -> None:
    grey, colour = noise(6, 9), noise(6, 9, 3)
    near(read(encoded(Image.fromarray(grey), "PNG")), grey[..., None], 0)
    near(read(encoded(Image.fromarray(grey), "PNG"), 3), np.stack([grey] * 3, axis=-1), 0)
    near(read(encoded(Image.fromarray(colour), "PNG")), colour, 0)
    near(read(encoded(Image.fromarray(colour), "PNG"), 1), luma(colour)[..., None])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_gives_its_colours(kind: str) -> None:
    palette, index = noise(7, 3), RANDOM.randint(0, 7, (6, 9)).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    near(read(encoded(image, kind)), palette[index], 0)
    near(read(encoded(image, kind), 1), luma(palette[index])[..., None])
    near(read(encoded(image, kind, transparency=3)), over_white(palette[index], np.where(index == 3, 0, 255)), 0)
    if kind == "PNG":  # an alpha for each colour
        alpha = noise(7)
        near(read(encoded(image, kind, transparency=alpha.tobytes())), over_white(palette[index], alpha[index]))


def test_alpha_is_laid_over_white() -> None:
    colour, grey, alpha = noise(6, 9, 3), noise(6, 9), noise(6, 9)
    rgba = encoded(Image.fromarray(np.dstack([colour, alpha])), "PNG")
    near(read(rgba), over_white(colour, alpha))
    near(read(rgba, 1), luma(over_white(colour, alpha))[..., None], 2)
    la = encoded(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG")
    near(read(la), over_white(grey[..., None], alpha))
    assert read(la).shape == (6, 9, 1)


def test_one_transparent_value_of_grey_and_of_colour_becomes_white() -> None:
    grey = (np.arange(54) % 5).astype(np.uint8).reshape(6, 9)
    near(read(encoded(Image.fromarray(grey), "PNG", transparency=3)), np.where(grey == 3, 255, grey)[..., None], 0)
    colour = np.stack([grey, grey, grey * 2], axis=-1)
    hidden = (grey == 3)[..., None]
    near(read(encoded(Image.fromarray(colour), "PNG", transparency=(3, 3, 6))), np.where(hidden, 255, colour), 0)
    deep = grey.astype(np.uint16) * 1000
    content = encoded(Image.fromarray(deep), "PNG", transparency=3000)
    near(read(content), np.where(deep == 3000, 255, np.rint(deep / 257))[..., None], 0)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_colours(kind: str) -> None:
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, :16] = (0, 200, 100, 20)
    inks[:, 16:] = (250, 10, 0, 0)
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    content = encoded(Image.fromarray(inks, "CMYK"), kind, **options)
    near(read(content), expected, 3)
    if kind == "JPEG":
        # Adobe's are stored inverted and say so in a segment; one without it means what it says.
        start = content.index(b"\xff\xee")
        assert content[start + 4 : start + 9] == b"Adobe"
        length = int.from_bytes(content[start + 2 : start + 4], "big")
        plain = content[:start] + content[start + 2 + length :]
        inverted = 255 - inks.astype(float)
        near(read(plain), (255 - inverted[..., :3]) * (255 - inverted[..., 3:]) / 255, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF big-endian"])
def test_sixteen_bits_of_grey_become_eight(kind: str) -> None:
    deep = RANDOM.randint(0, 65536, (6, 9)).astype(np.uint16)
    deep[0, :4] = (0, 65535, 128, 129)
    image = Image.fromarray(deep)
    if kind == "TIFF big-endian":
        image = Image.frombytes("I;16B", (9, 6), deep.astype(">u2").tobytes())
    near(read(encoded(image, kind.split()[0])), np.rint(deep / 257)[..., None], 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_or_white(kind: str) -> None:
    bits = RANDOM.rand(6, 9) > 0.5
    near(read(encoded(Image.fromarray(bits), kind)), bits[..., None] * 255, 0)


# As EXIF 2.3 states where the first row and the first column of the stored picture are to be seen.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_is_turned_as_its_exif_says(kind: str, orientation: int) -> None:
    colours = np.kron(noise(2, 3, 3), np.ones((8, 8, 1))).astype(np.uint8)
    image = Image.fromarray(colours)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = encoded(image, kind, exif=exif, **options)
    near(read(content), TURNS[orientation](colours).astype(int), 4 if kind == "JPEG" else 0)


def test_a_photo_on_its_side_is_not_decoded_too_small_for_a_long_frame() -> None:
    """A JPEG is decoded at a fraction that must still cover the frame once it has been turned."""
    x = np.linspace(0, 40, 2400)
    colours = np.repeat((np.sin(x) * 120 + 128).astype(np.uint8)[None, :, None], 600, axis=0).repeat(3, axis=2)
    image = Image.fromarray(colours)
    exif = image.getexif()
    exif[0x0112] = 6
    frame = Frame(3, 100, 400, fits=True)
    ours = decode(Encoded(encoded(image, "JPEG", quality=95, exif=exif), "a"), frame).transpose(1, 2, 0).astype(int)
    upright = Image.fromarray(np.rot90(colours, -1).copy())
    expected = upright.resize((400, 100), Image.Resampling.LANCZOS, box=(0, 1125, 600, 1275))
    near(ours, np.asarray(expected).astype(int), 8)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    frames = [Image.fromarray(np.full((6, 9, 3), value, np.uint8)) for value in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    near(read(content, 3), np.full((6, 9, 3), 10), 0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(np.zeros((6, 9), np.float32)), "32-bit floating point"),
        (Image.fromarray(np.zeros((6, 9), np.int32)), "32-bit whole numbers"),
    ],
)
def test_what_has_no_eight_bits_is_refused_by_name(tmp_path: Path, image: Image.Image, words: str) -> None:
    for i in range(2):
        image.save(tmp_path / f"{i}.tiff")
    with pytest.raises(DataError, match="2 of 2 files are bad") as caught:
        opened(tmp_path)
    assert words in caught.value.what
    assert caught.value.path == tmp_path / "0.tiff"
    assert str(tmp_path / "0.tiff") in one_line(caught.value)


# -- the size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [(40, 90), (90, 40), (30, 30), (24, 16)])
@pytest.mark.parametrize("size", [(24, 16), (16, 24), (20, 20)])
@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_size_and_fit_are_what_pillow_makes_by_hand(
    tmp_path: Path, how: str, size: tuple[int, int], given: tuple[int, int]
) -> None:
    (height, width), (tall, wide) = given, size
    values = noise(height, width, 3)
    image = Image.fromarray(values)
    for i in range(2):
        image.save(tmp_path / f"{i}.png")
    np.save(tmp_path / "a.npy", np.stack([values] * 2))
    if how == "stretch":
        expected = np.asarray(image.resize((wide, tall), Image.Resampling.LANCZOS))
    elif how == "pad":
        scale = min(wide / width, tall / height)
        small = image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
        expected = np.full((tall, wide, 3), 255, np.uint8)
        top, left = (tall - small.height) // 2, (wide - small.width) // 2
        expected[top : top + small.height, left : left + small.width] = np.asarray(small)
    else:
        inner_width, inner_height = min(width, height * wide / tall), min(height, width * tall / wide)
        left, top = (width - inner_width) / 2, (height - inner_height) / 2
        box = (left, top, left + inner_width, top + inner_height)
        expected = np.asarray(image.resize((wide, tall), Image.Resampling.LANCZOS, box=box))
    for path in (tmp_path, tmp_path / "a.npy"):
        data = opened(path, size=size, fit=how)
        assert data.spec.shape == (3, tall, wide)
        near(pixels(data.train)[0].transpose(1, 2, 0), expected.astype(int))


def test_padding_of_grey_is_white_too() -> None:
    frame = Frame(1, 8, 8, fits=True, how="pad")
    made = np.asarray(fit(Image.fromarray(np.zeros((8, 4), np.uint8)), frame))
    assert made[:, :2].tolist() == made[:, 6:].tolist() == [[255, 255]] * 8
    assert made[:, 2:6].max() == 0
    assert fit(Image.new("RGB", (4000, 4)), Frame(3, 8, 8, fits=True, how="pad")).size == (8, 8)
