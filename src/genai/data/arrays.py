"""Pictures, clips, sounds and points of .npz and .npy files, read without unpickling and, where the file allows,
without loading."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genai.data import clips, sniff, sounds
from genai.data.images import Frame, Look, frame_of, prepare, size_text
from genai.data.source import RESIDENT_BYTES, Part, Source, refuse_foreign_settings
from genai.errors import DataError
from genai.schema import DataConfig

_MOST_UNPACKED_BYTES = 8 << 30  # of a compressed array, which must be held in memory
_ROWS_AT_ONCE, _VALUES_AT_ONCE = 2048, 1 << 22
_DIGEST_ROWS, _DIGEST_BYTES = 1000, 1 << 30  # that stand for an array in its file, at most


class ArrayRows:
    """Pictures, clips or sounds of an array that stays in its file, brought to the frame when asked for: `ordered` puts
    their axes in order, `prepare` brings some of them to the frame."""

    def __init__(
        self,
        array: np.ndarray,
        frame: Frame | clips.Frame | sounds.Frame,
        path: Path,
        ordered: Callable[[np.ndarray, Path], np.ndarray],
        prepare: Callable[[np.ndarray, Any], np.ndarray],
    ) -> None:
        self._array, self._how = array, (frame, path, ordered, prepare)
        self._samples = ordered(array, path)
        self.shape: tuple[int, ...] = frame.shape

    def __reduce__(self) -> tuple[Callable[..., ArrayRows], tuple[object, ...]]:
        """A process that reads opens the file itself: to send a mapped array would be to send all of it."""
        array = self._array
        if not isinstance(array, np.memmap):
            return ArrayRows, (array, *self._how)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        header = sniff.ArrayHeader(array.shape, array.dtype.str, fortran, 0)
        return _remapped, (header, array.offset, *self._how)

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: np.ndarray) -> np.ndarray:
        frame, _, _, prepare = self._how
        return prepare(self._samples[index], frame)

    def digest(self) -> bytes:
        each = max(1, self._samples[:1].nbytes)
        most = max(2, min(_DIGEST_ROWS, _DIGEST_BYTES // each))
        digest = hashlib.sha256(repr(self._samples.shape).encode())
        for i in np.unique(np.linspace(0, len(self) - 1, most).astype(int)):
            digest.update(self._samples[i].tobytes())
        return digest.digest()


def _remapped(header: sniff.ArrayHeader, offset: int, frame: Any, path: Path, *how: Any) -> ArrayRows:
    return ArrayRows(_mapped(path, header, offset), frame, path, *how)


def open_arrays(path: Path, config: DataConfig, name: str) -> Source:
    """Raises DataError for arrays that hold no pictures, clips, sounds or points, and for labels that do not fit."""
    if path.suffix.lower() == ".npy":
        arrays = {"x": load_npy(path)}
    else:
        arrays = load_npz(path)
    notes = []
    key = sniff.find_key(arrays, sniff.X_KEYS, path)
    is_audio = sniff.modality_of_array(_header_of(arrays[key]), path, key) == "audio"
    used = (sniff.X_KEYS, sniff.LABEL_KEYS, sniff.TEST_X_KEYS, sniff.TEST_LABEL_KEYS, ("names",), (sniff.RATE_KEY,))
    x, labels, test_x, test_labels, names, rate, captions, test_captions = (
        next((arrays.pop(k) for k in keys if k in arrays), None) for keys in (*used, *sniff.CAPTION_KEYS)
    )
    if arrays:
        notes.append(f"arrays that are not used: {', '.join(arrays)}")
    if x is None:
        raise AssertionError("sniff.find_key has found it")
    source = source_of_arrays(
        x,
        labels,
        test_x,
        test_labels,
        names=names,
        rate=_rate(rate, config, path) if is_audio else None,
        path=path,
        config=config,
        name=name,
        notes=tuple(notes),
    )
    test = None if source.test is None else captioned(source.test, test_captions, "test_captions", path)
    return replace(source, train=captioned(source.train, captions, "captions", path), test=test)


def source_of_arrays(
    x: np.ndarray,
    labels: np.ndarray | None,
    test_x: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
    *,
    names: np.ndarray | None = None,
    rate: int | None = None,
    path: Path,
    config: DataConfig,
    name: str,
    notes: tuple[str, ...] = (),
) -> Source:
    """Pictures (N, H, W[, C]) or clips (N, T, H, W, C) of whole numbers 0 to 255, points (N, 2), or with a `rate`
    sounds (N, [C,] T); labels if there are any."""
    found, class_names = _labels(labels, names, len(x), path)
    if (found is None) != (test_labels is None) and test_x is not None:
        raise DataError("labels of the training or of the test part are missing", path=path, fix="save both or none")
    test_found = None
    if test_x is not None and test_labels is not None:
        known = np.array(class_names) if class_names else None
        test_found, _ = _labels(test_labels, known, len(test_x), path, "test labels")
    classes = len(class_names)
    if found is not None and (empty := classes - len(np.unique(found))):
        notes = (*notes, f"{empty} of the {classes} classes have no samples")
    if rate is not None:
        held = [sounds.as_nct(part, path) for part in (x, test_x) if part is not None]
        sound, said = sounds.frame_of(
            [look for part in held for look in [sounds.Look(rate, *part.shape[1:])] * len(part)], config
        )
        test = None if test_x is None else Part(_sounds(test_x, rate, sound, path), test_found)
        return Source(
            name,
            "audio",
            Part(_sounds(x, rate, sound, path), found),
            test,
            classes=classes,
            names=class_names,
            notes=(*notes, *said),
            sample_rate=sound.rate,
        )
    modality = sniff.modality_of_array(_header_of(x), path, "x")
    if modality == "video":
        clip, said = clips.frame_of(clips.as_nthwc(x, path), config)
        test = None if test_x is None else Part(_clips(test_x, clip, path), test_found)
        part = Part(_clips(x, clip, path), found)
        return Source(name, "video", part, test, classes=classes, names=class_names, notes=(*notes, *said))
    if modality == "points":
        refuse_foreign_settings(config, "points")
        test = None if test_x is None else Part(_points(test_x, path), test_found)
        part = Part(_points(x, path), found)
        return Source(name, "points", part, test, classes=classes, names=class_names, notes=notes)
    images = _as_nhwc(x, path)
    frame, said = frame_of([Look(images.shape[2], images.shape[1], grey=images.shape[3] == 1)], config)
    test = None if test_x is None else Part(_pictures(test_x, frame, path), test_found)
    part = Part(_pictures(x, frame, path), found)
    return Source(name, "image", part, test, classes=classes, names=class_names, notes=(*notes, *said))


def _header_of(array: np.ndarray) -> sniff.ArrayHeader:
    return sniff.ArrayHeader(array.shape, array.dtype.str, False, 0)


def captioned(part: Part, captions: np.ndarray | None, what: str, path: Path) -> Part:
    """The part with its captions, if there are any. Raises DataError where they are no texts or not one a sample."""
    if captions is None:
        return part
    if captions.shape != (len(part),) or captions.dtype.kind not in "US":
        got = f"'{what}' of type {captions.dtype} and shape {captions.shape} for {len(part)} samples"
        raise DataError(got, path=path, fix="save one text a sample")
    return replace(part, captions=tuple(map(str, _as_text(captions, what, path))))


def load_npy(path: Path) -> np.ndarray:
    header = sniff.npy_header(path)
    sniff.modality_of_array(header, path, "x")
    return _mapped(path, header, header.start)


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays that we know by name, and the names of the others with nothing in them."""
    headers = sniff.npz_headers(path)
    arrays = {}
    key = sniff.find_key(headers, sniff.X_KEYS, path)
    sniff.modality_of_array(headers[key], path, key)
    with sniff.reading(path), zipfile.ZipFile(path) as archive:
        for key, header in headers.items():
            if header.dtype == "|V1":
                arrays[key] = np.empty(0)
                continue
            info = archive.getinfo(f"{key}.npy")
            if info.compress_type == zipfile.ZIP_STORED and header.num_bytes > 0:
                arrays[key] = _mapped(path, header, _first_byte(path, info) + header.start)
            elif info.file_size > _MOST_UNPACKED_BYTES:
                fix = "save it with numpy.savez, not numpy.savez_compressed"
                raise DataError(f"array '{key}' would unpack to {info.file_size / 1e9:.0f} GB", path=path, fix=fix)
            else:
                values = np.frombuffer(archive.read(info), dtype=header.dtype, offset=header.start)
                arrays[key] = values.reshape(header.shape, order="F" if header.fortran else "C")
    return arrays


def _mapped(path: Path, header: sniff.ArrayHeader, offset: int) -> np.ndarray:
    if header.num_bytes == 0:
        return np.empty(header.shape, dtype=header.dtype)
    order = "F" if header.fortran else "C"
    with sniff.reading(path):
        return np.memmap(path, dtype=header.dtype, mode="r", offset=offset, shape=header.shape, order=order)  # type: ignore[call-overload]


def _first_byte(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed member begins: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name_length) + int(extra_length)


def _as_nhwc(images: np.ndarray, path: Path) -> np.ndarray:
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    what = f"pictures of shape {images.shape}, expected (N, H, W) or (N, H, W, 1 or 3)"
    raise DataError(what, path=path, fix="save them in that shape")


def _pictures(array: np.ndarray, frame: Frame, path: Path) -> np.ndarray | ArrayRows:
    """In memory where they fit there; else rows of the file."""
    images = _as_nhwc(array, path)
    if 0 in images.shape:
        raise DataError(f"pictures of shape {images.shape} hold nothing", path=path, fix="check the file")
    _refuse_size(images, frame, "pictures", path)
    if len(images) * frame.num_bytes > RESIDENT_BYTES:
        if images.dtype != np.uint8:
            raise DataError(f"pictures of type {images.dtype}", path=path, fix="save so many pictures as uint8")
        return ArrayRows(array, frame, path, _as_nhwc, prepare)
    made = np.empty((len(images), *frame.shape), dtype=np.uint8)
    for start in range(0, len(images), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        made[rows] = prepare(_as_uint8(images[rows], start, path), frame)
    return made


def _clips(array: np.ndarray, frame: clips.Frame, path: Path) -> np.ndarray | ArrayRows:
    """In memory where they fit there; else rows of the file."""
    held = clips.as_nthwc(array, path)
    length = held.shape[1]
    if length < frame.length or (length > frame.length and not frame.cuts):
        what = f"test clips of {length} frames, expected {frame.length}"
        raise DataError(what, path=path, fix=f"type data.frames={min(length, frame.length)}")
    _refuse_size(held, frame.picture, "clips", path)
    if len(held) * frame.num_bytes > RESIDENT_BYTES:
        if held.dtype != np.uint8:
            raise DataError(f"clips of type {held.dtype}", path=path, fix="save so many clips as uint8")
        return ArrayRows(array, frame, path, clips.as_nthwc, clips.prepare)
    made = np.empty((len(held), *frame.shape), dtype=np.uint8)
    step = max(1, _ROWS_AT_ONCE // frame.length)
    for start in range(0, len(held), step):
        rows = slice(start, start + step)
        made[rows] = clips.prepare(_as_uint8(held[rows], start, path, "clip"), frame)
    return made


def _refuse_size(held: np.ndarray, frame: Frame, nouns: str, path: Path) -> None:
    """Raises DataError for pictures or clips (..., H, W, C) of another size than the frame's that are not to be fitted
    into it: only a test part can be."""
    height, width = held.shape[-3:-1]
    if not frame.fits and (height, width) != (frame.height, frame.width):
        what = f"test {nouns} of {width}x{height}, expected {frame.width}x{frame.height}"
        raise DataError(what, path=path, fix=f"type data.size={size_text(frame.height, frame.width)}")


def _rate(stored: np.ndarray | None, config: DataConfig, path: Path) -> int:
    """Of the sounds of a file. Raises DataError where neither it nor data.sample_rate says it."""
    if stored is None and config.sample_rate is not None:
        return config.sample_rate
    if stored is None:
        raise DataError(
            "sounds without a rate", path=path, fix="save sample_rate=N beside audio=, or type data.sample_rate=N"
        )
    if (
        stored.size != 1
        or stored.dtype.kind not in "iu"
        or not sounds.RATES[0] <= int(stored.ravel()[0]) <= sounds.RATES[1]
    ):
        what = f"'sample_rate' is {stored.ravel()[:1].tolist()} of type {stored.dtype} and shape {stored.shape}"
        raise DataError(what, path=path, fix="save one whole number, the values a second")
    return int(stored.ravel()[0])


def _sounds(array: np.ndarray, rate: int, frame: sounds.Frame, path: Path) -> np.ndarray | ArrayRows:
    """In memory where they fit there; else rows of the file."""
    held, prepare_sounds = sounds.as_nct(array, path), partial(sounds.prepare, rate=rate)
    if len(held) * frame.num_bytes > RESIDENT_BYTES:
        if held.dtype.kind == "f":
            raise DataError(f"sounds of type {held.dtype}", path=path, fix="save so many sounds as int16")
        return ArrayRows(array, frame, path, sounds.as_nct, prepare_sounds)
    made = np.empty((len(held), *frame.shape), np.int16)
    step = max(1, _VALUES_AT_ONCE // max(1, held[0].size))
    for start in range(0, len(held), step):
        rows = held[start : start + step]
        if rows.dtype.kind == "f" and len(bad := np.flatnonzero(~(np.abs(rows) <= 1).all(axis=(1, 2)))):
            what = f"sound {start + bad[0]} has values outside -1..1, or that are not finite"
            raise DataError(what, path=path, fix="divide by the largest, or save int16")
        made[start : start + step] = prepare_sounds(rows, frame)
    return made


def _as_uint8(images: np.ndarray, start: int, path: Path, noun: str = "picture") -> np.ndarray:
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * 255
    if images.dtype != np.uint8:
        bad = np.flatnonzero(((images < 0) | (images > 255)).reshape(len(images), -1).any(axis=1))
        if len(bad):
            raise DataError(f"{noun} {start + bad[0]} has values outside 0..255", path=path, fix="save it as uint8")
    return np.asarray(images, dtype=np.uint8)


def _points(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] != 2:
        raise DataError(f"points of shape {values.shape}, expected (N, 2)", path=path, fix="check the file")
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        points = np.ascontiguousarray(values, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise DataError(f"point {bad[0]} is not finite", path=path, fix="remove it")
    return points


def _labels(
    labels: np.ndarray | None, names: np.ndarray | None, n: int, path: Path, what: str = "labels"
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N,) int64 and the names of all classes. Raises DataError where they do not fit `n` samples or the names."""
    if labels is None:
        return None, ()
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise DataError(f"{what} of shape {labels.shape} for {n} samples", path=path, fix="save one label a sample")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US" or not len(names)):
        raise DataError(f"'names' of type {names.dtype} and shape {names.shape}", path=path, fix="save a list of texts")
    if labels.dtype.kind in "US":
        texts = _as_text(labels, what, path)
        classes = np.unique(texts) if names is None else _as_text(names, "names", path)
        order = np.argsort(classes)
        found = order[np.searchsorted(classes, texts, sorter=order).clip(0, len(classes) - 1)]
        wrong = np.flatnonzero(classes[found] != texts)
        if len(wrong):
            told = f"'{texts[wrong[0]]}' at {wrong[0]} of {what} is not among the names"
            raise DataError(told, path=path, fix="add it to 'names', or leave 'names' out")
        return found.astype(np.int64), tuple(map(str, classes))
    if labels.dtype.kind not in "iub":
        raise DataError(f"{what} of type {labels.dtype}", path=path, fix="save whole numbers from 0 on, or texts")
    found = labels.astype(np.int64)
    # Without names the highest label says how many classes there are; far beyond the samples it is no class.
    limit = max(n, 1000) if names is None else len(names)
    wrong = np.flatnonzero((found < 0) | (found >= limit))
    if len(wrong):
        got = f"{found[wrong[0]]} at {wrong[0]} of {what}"
        raise DataError(f"{got} is out of range, expected 0 to {limit - 1}", path=path, fix="number the classes from 0")
    if names is not None:
        return found, tuple(map(str, _as_text(names, "names", path)))
    return found, tuple(map(str, range(int(found.max(initial=-1)) + 1)))


def _as_text(values: np.ndarray, what: str, path: Path) -> np.ndarray:
    if values.dtype.kind == "U":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{what} are bytes that are no UTF-8 text", path=path, fix="save them as texts") from error
