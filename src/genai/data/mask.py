"""Which values of a sample are missing, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from genai.contract import Spec
from genai.errors import DataError

_HALF = 127  # grey levels above which a pixel of a mask is white


def read_mask(path: Path, spec: Spec) -> np.ndarray:
    """(*spec.shape) booleans, true where values are missing: where a picture is white, or an .npy array is not 0.

    A mask without the first axes (channels, frames) is for all of them. Raises DataError for what is no mask, or of
    another size.
    """
    if not path.is_file():
        raise DataError("no such file", path=path, fix="check the path of --mask")
    values = _array(path) if path.suffix.lower() == ".npy" else _picture(path)
    shape = spec.shape
    if values.shape not in [shape[axis:] for axis in range(len(shape))]:
        got, expected = (" x ".join(map(str, s)) or "one value" for s in (values.shape, shape[1:] or shape))
        fix = (
            f"give it that size, as a picture {' x '.join(map(str, shape[-2:]))}"
            if len(shape) > 1
            else "give it that size"
        )
        raise DataError(f"a mask of {got}, the model's samples are {expected}", path=path, fix=fix)
    if not values.any():
        fix = "make a picture white, or an array not 0, where values are missing"
        raise DataError("nothing is missing by this mask", path=path, fix=fix)
    return np.broadcast_to(values, shape).copy()


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > _HALF
    except Exception as error:  # a decoder may raise anything on a damaged file
        what = "a mask is a picture that is white where values are missing, or an .npy array"
        raise DataError(what, path=path, fix="save it as PNG or by numpy.save") from error


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"an array of {values.dtype}")
        if np.isnan(values).any():
            raise ValueError("values that are no numbers")
        return np.asarray(values != 0)
    except Exception as error:  # of an archive, of nothing, of texts
        raise DataError("not a readable .npy array of numbers", path=path, fix="save it by numpy.save") from error
