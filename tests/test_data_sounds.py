"""Sounds in files, folders and arrays, against soundfile, SciPy and closed forms, and what should not be among them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from genai.data import arrays as arrays_module
from genai.data import listed as listed_module
from genai.data.check import check, describe
from genai.data.loader import Loader
from genai.data.packaged import packed, unpacked
from genai.data.sounds import Frame, Look, decode, fit, frame_of, look_at
from genai.data.source import SeenBy, Source, modality_of, open_data, open_source
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig
from sounds import config, levels, noise, opened, save, sine

FOUR = Frame(channels=1, length=4, rate=8000)


def save_several(folder: Path, count: int = 3, length: int = 100, rate: int = 8000) -> list[np.ndarray]:
    sounds = [noise(length) for _ in range(count)]
    for i, sound in enumerate(sounds):
        save(folder / f"{i}.wav", sound, rate)
    return sounds


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff", "au", "caf"])
def test_sixteen_bits_are_kept_bit_for_bit_in_every_lossless_format(tmp_path: Path, ending: str) -> None:
    values = np.concatenate([noise(500), np.array([-32768, 32767, 0, -1], np.int16)])
    path = save(tmp_path / f"a.{ending}", values, subtype="PCM_16")
    assert look_at(path) == Look(rate=8000, channels=1, frames=504)
    assert np.array_equal(decode(path, Frame(1, 504, 8000)), values[None])


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_wav_of_every_width_is_read_as_soundfile_reads_it_and_without_soundfile(
    tmp_path: Path, subtype: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.stack([sine(440, 0.1, 8000), sine(660, 0.1, 8000)], axis=1)
    path = save(tmp_path / "a.wav", values, format=kind, subtype=subtype)
    expected = soundfile.read(path, always_2d=True)[0].T
    forbid(monkeypatch, "soundfile")
    assert look_at(path) == Look(rate=8000, channels=2, frames=800)
    assert np.array_equal(decode(path, Frame(2, 800, 8000)), np.rint(expected * 32768))


@pytest.mark.parametrize(
    ("ending", "subtype"), [("ogg", "VORBIS"), ("opus", "OPUS"), ("mp3", None), ("wav", "ULAW"), ("wav", "ALAW")]
)
def test_other_codings_are_read_as_soundfile_reads_them(tmp_path: Path, ending: str, subtype: str | None) -> None:
    how = {"format": "OGG"} if ending == "opus" else {}
    path = save(tmp_path / f"a.{ending}", sine(440, 0.5, 8000), subtype=subtype, **how)
    expected = soundfile.read(path)[0]
    found = decode(path, Frame(1, len(expected), 8000))[0]
    assert np.abs(found - np.rint(expected * 32768)).max() <= 1  # it decodes some of them to float32
    assert np.corrcoef(found, sine(440, 0.5, 8000)[: len(found)])[0, 1] > 0.99


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])  # as programs write into a pipe
def test_a_wav_written_by_the_standard_library_with_other_chunks_and_an_unknown_length_is_read(
    tmp_path: Path, length: int
) -> None:
    values = noise(51)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    content = (tmp_path / "a.wav").read_bytes()
    start = content.index(b"data")
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of an odd length, so with a byte to fill
    streamed = content[:start] + extra + b"data" + struct.pack("<I", length) + content[start + 8 :]
    (tmp_path / "b.wav").write_bytes(streamed)
    for name in ("a.wav", "b.wav"):
        assert np.array_equal(decode(tmp_path / name, Frame(1, 51, 8000))[0], values)


def test_a_wav_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    values = noise(200)
    soundfile.write(tmp_path / "a.wav", values, 8000, endian="BIG", subtype="PCM_16")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFX"
    assert np.array_equal(decode(tmp_path / "a.wav", Frame(1, 200, 8000))[0], values)


def test_an_mp3_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp3", sine(440, 5.0, 8000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        decode(path, Frame(1, 40_000, 8000))


def test_a_sound_that_does_not_say_how_long_it_is_is_refused_by_its_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac", noise(5000))
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # of the 36 bits that hold the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="does not say how long it is") as caught:
        look_at(path)
    assert caught.value.path == path


@pytest.mark.parametrize(("own", "wanted"), [(44100, 8000), (8000, 16000), (48000, 22050)])
def test_resampling_keeps_a_sine_and_agrees_with_scipy(tmp_path: Path, own: int, wanted: int) -> None:
    path = save(tmp_path / "a.wav", sine(1000, 0.5, own), own, subtype="FLOAT")
    found = decode(path, Frame(1, wanted // 2, wanted))[0] / 32768
    expected = sine(1000, 0.5, wanted)
    inner = slice(wanted // 10, -wanted // 10)  # away from the ends, where it begins and stops at once
    assert np.abs(found - expected)[inner].max() < 1e-3
    divisor = np.gcd(own, wanted)
    theirs = resample_poly(sine(1000, 0.5, own), wanted // divisor, own // divisor)[: len(found)]
    assert np.abs(found - theirs)[inner].max() < 5e-3
    # What the lower rate cannot hold is gone, not folded back.
    save(path, sine(wanted * 0.7, 0.5, own), own) if own > 2 * wanted * 0.7 else save(path, sine(0, 0.5, own), own)
    assert np.abs(decode(path, Frame(1, wanted // 2, wanted))[0])[inner].max() < 50


def test_the_beginning_of_a_long_sound_is_what_the_whole_begins_with(tmp_path: Path) -> None:
    values = noise(300_000)
    path = save(tmp_path / "a.wav", values, 44100)
    for rate in (44100, 8000):
        whole = fit(values[None], 44100, Frame(1, 50_000, rate))
        assert np.abs(decode(path, Frame(1, 4000, rate)).astype(int) - whole[:, :4000]).max() <= 1


def test_shorter_ones_are_filled_with_silence_and_longer_ones_cut_at_the_end() -> None:
    values = noise(1, 3)
    assert fit(values, 8000, FOUR).tolist() == [[*values[0], 0]]
    values = noise(1, 6)
    assert fit(values, 8000, FOUR).tolist() == [values[0, :4].tolist()]
    assert fit(noise(1, 1), 8000, FOUR)[0, 1:].tolist() == [0, 0, 0]
    assert fit(noise(1, 1), 44100, FOUR).shape == (1, 4)  # one value of a higher rate is next to nothing


def test_channels_are_mixed_by_their_mean_and_a_mono_one_repeated() -> None:
    values = np.array([[100, -100, 32767, 0], [300, 101, 32767, -32768]], np.int16)
    assert fit(values, 8000, FOUR).tolist() == [[200, 0, 32767, -16384]]
    assert fit(values[:1], 8000, Frame(2, 4, 8000)).tolist() == [values[0].tolist()] * 2
    assert np.array_equal(fit(values, 8000, Frame(2, 4, 8000)), values)
    assert fit(np.repeat(values, 4, axis=0), 8000, FOUR).tolist() == [[200, 0, 32767, -16384]]
    with pytest.raises(DataError, match="8 channels, expected 1 or 2"):
        fit(np.repeat(values, 4, axis=0), 8000, Frame(2, 4, 8000))


def test_what_is_too_loud_is_clipped_and_never_wraps_around() -> None:
    loud = np.array([[1.0, 1.5, -1.0, -3e38]], np.float32)
    assert fit(loud, 8000, FOUR).tolist() == [[32767, 32767, -32768, -32768]]


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_packing_is_lossless(values: list[int]) -> None:
    levels = np.array(values, np.int16)
    assert np.array_equal(unpacked(packed(levels)), levels)


# -- what a set is brought to -----------------------------------------------------------------------------------------


def framed(*looks: tuple[int, int, int], **settings: Any) -> tuple[Frame, str]:
    frame, notes = frame_of([Look(*look) for look in looks], DataConfig(name="path", **settings))
    return frame, "; ".join(notes)


def test_the_sounds_decide_rate_length_and_channels_and_the_notes_say_so() -> None:
    frame, notes = framed((8000, 1, 8000), (8000, 1, 4000), (16000, 1, 8000))
    assert frame == Frame(1, 8000, 8000)
    assert "8,000 to 16,000 Hz become 8,000 Hz" in notes
    assert "sounds are 1 s, as long as the longest; data.seconds=N" in notes
    assert "of 3 sounds, 2 filled with silence" in notes
    assert framed((8000, 1, 100), (16000, 1, 100))[0].rate == 8000  # the lowest of equally common ones
    assert framed((8000, 2, 100), (8000, 2, 100)) == (
        Frame(2, 100, 8000),
        "sounds are 0.0125 s, as long as the longest; data.seconds=N for another length",
    )
    frame, notes = framed((8000, 1, 100), (8000, 2, 100))
    assert frame.channels == 1
    assert "sounds of 1 and 2 channels are mixed to 1" in notes
    assert framed((8000, 8, 100), (8000, 8, 100))[0].channels == 1
    assert framed((8000, 1, 100), channels=2)[0].channels == 2
    frame, notes = framed((8000, 1, 16000), (8000, 1, 800), seconds=1.024, sample_rate=16000)
    assert frame == Frame(1, 16384, 16000)
    assert "of 2 sounds, 1 cut at the end and 1 filled with silence" in notes


def test_lengths_that_are_none_for_all_need_data_seconds() -> None:
    with pytest.raises(ConfigError, match=r"61 s.* - type data\.seconds=60"):
        framed(*[(8000, 1, 488_000)] * 3)
    with pytest.raises(ConfigError, match=r"longest sound has 10 s, .* at most 1 s.* - type data\.seconds=1,"):
        framed((8000, 1, 80_000), *[(8000, 1, 8000)] * 20)
    assert framed((8000, 1, 80_000), *[(8000, 1, 8000)] * 20, seconds=1)[0].length == 8000
    assert framed((8000, 1, 80_000), *[(8000, 1, 40_000)] * 20)[0].length == 80_000
    with pytest.raises(ConfigError, match="no value"):
        framed((8000, 1, 80), seconds=1e-5)


def test_settings_of_other_data_are_refused(tmp_path: Path) -> None:
    save_several(tmp_path / "sounds")
    np.savez(tmp_path / "points.npz", x=np.zeros((4, 2), np.float32))
    for path, settings, words in (
        (tmp_path / "sounds", {"size": 32}, "the data are sounds, of which data.size says nothing"),
        (tmp_path / "sounds", {"channels": 3}, "data.channels is 3, sounds have 1 or 2"),
        (tmp_path / "points.npz", {"seconds": 1.0}, "the data are points, of which data.seconds says nothing"),
    ):
        with pytest.raises(ConfigError, match=words):
            opened(path, **settings)
    for settings in ({"seconds": 1.0}, {"sample_rate": 8000}, {"channels": 2}):
        with pytest.raises(ConfigError, match="pictures"):
            open_data(DataConfig(name="digits", **settings), predicts="data")  # type: ignore[arg-type]


# -- folders ----------------------------------------------------------------------------------------------------------


def test_sub_folders_are_classes_and_every_value_is_kept(tmp_path: Path) -> None:
    written = []
    for label in ("cat", "dog", "漢字, a=1"):
        for i in range(3):
            written.append(noise(100))
            save(tmp_path / label / "deeper" / f"{i}.{'flac' if i else 'wav'}", written[-1])
    data = opened(tmp_path)
    assert data.spec.cond["label"].names == ("cat", "dog", "漢字, a=1")
    assert (data.spec.modality, data.spec.shape, data.spec.sample_rate) == ("audio", (1, 100), 8000)
    assert data.train.fetch(torch.arange(9)).cond["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(levels(data.train)[:, 0], np.array(written))
    assert modality_of("path", str(tmp_path)) == "audio"


def test_metadata_parts_and_a_wrapping_folder_mean_what_they_mean_for_pictures(tmp_path: Path) -> None:
    rows = []
    for part, count in (("train", 6), ("test", 2)):
        for i in range(count):
            save(tmp_path / "set" / part / f"{i}.ogg", sine(400, 0.1, 8000))
            rows.append({"file": f"{part}/{i}.ogg", "label": "ab"[i % 2], "text": f"{part} {i}"})
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = opened(tmp_path)
    assert data.valid is not None
    assert (len(data.train), len(data.valid)) == (6, 2)
    assert data.spec.cond["label"].names == ("a", "b")
    assert (data.num_captions, data.caption_examples[0]) == (8, "train 0")
    assert data.notes[0] == "all sounds are in set, which is read"
    rows[0]["file"] = "train/z.ogg"
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"row 1 names 'train/z\.ogg', which is not in the folder.*add the sound"):
        opened(tmp_path)


def test_a_folder_of_both_holds_what_there_is_more_of(tmp_path: Path) -> None:
    from PIL import Image

    save_several(tmp_path, 3)
    Image.new("L", (8, 8)).save(tmp_path / "cover.png")
    assert len(opened(tmp_path).train) == 3
    assert "left out as no sounds: cover.png" in opened(tmp_path).notes
    for name in "ab":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="3 pictures and as many sounds"):
        modality_of("path", str(tmp_path))
    Image.new("L", (8, 8)).save(tmp_path / "c.png")
    assert modality_of("path", str(tmp_path)) == "image"
    assert opened(tmp_path).spec.modality == "image"


def test_samples_of_ours_among_the_sounds_are_no_data(tmp_path: Path) -> None:
    save_several(tmp_path, 2)
    save(tmp_path / "drawn" / "00000.wav", noise(9))
    (tmp_path / "drawn" / "samples.json").write_text("{}")
    (tmp_path / "drawn" / "overview.png").write_bytes(b"")
    assert len(opened(tmp_path).train) == 2


def bad_files(folder: Path) -> dict[str, str]:
    """Writes one good sound and one of each bad kind; returns words of the reason by name."""
    content = save(folder / "good.wav", noise(100)).read_bytes()
    (folder / "cut.wav").write_bytes(content[: len(content) // 2])
    (folder / "header.wav").write_bytes(content[:30])
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "text.wav").write_text("hello, this is no sound at all")
    (folder / "text.mp3").write_text("hello, this is no sound at all")
    (folder / "link.flac").symlink_to(folder / "gone.flac")
    os.mkfifo(folder / "pipe.wav")
    save(folder / "silent.wav", noise(0))
    save(folder / "nan.wav", np.array([0.0, np.nan, 0.5], np.float32), subtype="FLOAT")
    flac = save(folder / "cut.flac", noise(5000)).read_bytes()
    (folder / "cut.flac").write_bytes(flac[: len(flac) // 2])
    for name, offset, field in (
        ("channels.wav", 22, struct.pack("<H", 60000)),
        ("no channels.wav", 22, struct.pack("<H", 0)),
        ("rate.wav", 24, struct.pack("<I", 4_000_000_000)),
        ("no rate.wav", 24, struct.pack("<I", 0)),
        ("length.wav", 40, struct.pack("<I", 0x7FFFEF00)),
        ("chunk.wav", 16, struct.pack("<I", 0xFFFFFFF0)),
    ):
        (folder / name).write_bytes(content[:offset] + field + content[offset + len(field) :])
    return {
        "cut.wav": r"its header says 200 bytes, it has \d+ \(cut off",
        "header.wav": "cut off before",
        "nothing.wav": "it is empty",
        "text.wav": "its content is no wav",
        "text.mp3": "not a readable sound",
        "link.flac": "link leads nowhere",
        "pipe.wav": "not a file",
        "silent.wav": "holds no values",
        "nan.wav": "not finite",
        "cut.flac": "not a readable sound",
        "channels.wav": "60,?000 channels",
        "no channels.wav": "0 channels",
        "rate.wav": "4,000,000,000 values a second",
        "no rate.wav": "0 values a second",
        "length.wav": "cut off",
        "chunk.wav": "cut off",
    }


def test_each_bad_sound_is_named_with_its_reason(tmp_path: Path) -> None:
    kinds = bad_files(tmp_path / "all")
    for name, words in kinds.items():
        only = tmp_path / f"only {name}"
        save(only / "good.wav", noise(100))
        bad = only / f"bad{Path(name).suffix}"
        os.rename(tmp_path / "all" / name, bad)
        with pytest.raises(DataError, match=words) as caught:
            opened(only)
        assert caught.value.path == bad
        assert caught.value.exit_code == 3
        assert len(caught.value.lines()) == 1


def test_bad_sounds_are_skipped_when_asked_and_listed_by_check(tmp_path: Path) -> None:
    save_several(tmp_path, 18)
    for name in ("x.wav", "y.flac"):
        (tmp_path / name).write_bytes(b"no sound, but not empty")
    with pytest.raises(DataError, match="2 of 20 files are bad; the first: not a readable sound"):
        opened(tmp_path)
    data = opened(tmp_path, on_bad="skip")
    assert len(data.train) == 18
    assert any("2 bad sounds are skipped" in note for note in data.notes)
    report = check(config(tmp_path))
    assert [Path(path).name for path, _ in report.bad] == ["x.wav", "y.flac"]
    assert report.can_skip
    assert (report.train + report.held_out, report.shape, report.sample_rate) == (18, (1, 100), 8000)
    assert report.plain()["seconds"] == 100 / 8000
    for path in tmp_path.glob("*.wav"):
        path.write_bytes(b"")
    assert check(config(tmp_path)).num_bad == 20
    with pytest.raises(DataError, match="none of 20 sounds can be read"):
        opened(tmp_path)


def test_one_sound_is_no_set(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(10))
    for given_path in (tmp_path, path):
        with pytest.raises(DataError, match="one sound"):
            opened(given_path)


def test_skipping_gives_the_same_set_when_it_streams_also_with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in "ab":
        save_several(tmp_path / label, 10, 50)
    (tmp_path / "a" / "3.wav").write_bytes(b"")
    resident = opened(tmp_path, on_bad="skip")
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    streamed = opened(tmp_path, on_bad="skip")
    assert streamed.train.streams
    assert not resident.train.streams
    assert np.array_equal(levels(resident.train), levels(streamed.train))
    assert resident.spec == streamed.spec  # a set of fewer than 1,000 is measured whole
    batches = []
    for workers in (0, 2):
        loader = Loader(
            streamed.train,
            seed=0,
            batch_size=8,
            num_micro=1,
            first_micro=0,
            own_micro=1,
            device=torch.device("cpu"),
            dtype=torch.float32,
            workers=workers,
        )
        batches.append([loader.take(position)[0].x for position in (0, 8, 16)])
        loader.close()
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_a_set_in_memory_is_kept_as_two_bytes_a_value(tmp_path: Path) -> None:
    save_several(tmp_path)
    assert opened(tmp_path).train.stored.dtype == torch.int16  # type: ignore[attr-defined]


# -- units ------------------------------------------------------------------------------------------------------------


def test_units_are_one_deviation_of_all_training_values_and_silence_stays_zero(tmp_path: Path) -> None:
    sounds = noise(40, 2, 300)
    sounds[:, :, 200:] = 0
    np.savez(tmp_path / "a.npz", audio=sounds, sample_rate=8000)
    data = opened(tmp_path / "a.npz", valid_fraction=0.25)
    assert data.spec.offset == (0.0,)
    x = data.train.fetch(torch.arange(30)).x
    assert float(x.double().std(correction=0)) == pytest.approx(1, rel=1e-6)
    assert x[:, :, 200:].abs().max() == 0
    assert data.spec.scale[0] == pytest.approx(levels(data.train).std(), rel=1e-9)
    assert data.spec.scale[0] != pytest.approx(sounds.std(), rel=1e-6)  # what is held out is not looked at
    np.savez(tmp_path / "b.npz", audio=np.zeros((4, 10), np.int16), sample_rate=8000)
    assert opened(tmp_path / "b.npz").spec.scale == (1.0,)


def test_the_deviation_of_a_streaming_set_is_taken_of_a_seeded_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = (noise(3000, 20) * np.linspace(0.1, 1, 3000)[:, None]).astype(np.int16)
    np.savez(tmp_path / "a.npz", audio=sounds, sample_rate=8000)
    resident = opened(tmp_path / "a.npz", valid_fraction=0.5)
    monkeypatch.setattr(arrays_module, "RESIDENT_BYTES", 0)
    streamed = opened(tmp_path / "a.npz", valid_fraction=0.5)
    assert streamed.spec.scale == opened(tmp_path / "a.npz", valid_fraction=0.5).spec.scale
    assert streamed.spec.scale != resident.spec.scale  # 1,000 of 1,500
    assert streamed.spec.scale[0] == pytest.approx(resident.spec.scale[0], rel=0.03)


def test_a_model_hears_other_sounds_at_its_own_rate_in_its_own_length_and_units(tmp_path: Path) -> None:
    for name, rate, seconds in (("learned", 8000, 0.1), ("other", 16000, 0.3)):
        for i in range(4):
            save(tmp_path / name / f"{i}.wav", sine(500, seconds, rate, 0.1 * (i + 1)), rate)
    learned = opened(tmp_path / "learned")
    seen_by = SeenBy(learned.spec, (), hold_out_all=True)
    other = open_data(config(tmp_path / "other"), predicts="data", seen_by=seen_by)
    assert other.valid is not None
    assert (other.spec.shape, other.spec.sample_rate, other.spec.scale) == ((1, 800), 8000, learned.spec.scale)
    theirs, ours = levels(other.valid)[:, 0, 50:-50], levels(learned.train)[:, 0, 50:-50]
    assert np.abs(theirs - ours).max() < 50
    again = open_data(
        config(tmp_path / "learned", valid_fraction=0.0), predicts="data", seen_by=SeenBy(learned.spec, (), False)
    )
    assert again.fingerprint == learned.fingerprint


# -- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
def test_arrays_of_sounds_with_labels_names_captions_and_a_test_part(tmp_path: Path, save_arrays: Any) -> None:
    sounds, test = noise(6, 50), noise(3, 50)
    save_arrays(
        tmp_path / "a.npz",
        audio=sounds,
        sample_rate=11025,
        labels=np.arange(6) % 2,
        names=np.array(["no", "yes"]),
        captions=np.array(list("abcdef")),
        test_audio=test,
        test_labels=np.array([0, 1, 0]),
    )
    assert modality_of("path", str(tmp_path / "a.npz")) == "audio"
    data = opened(tmp_path / "a.npz")
    assert data.valid is not None
    assert (data.spec.modality, data.spec.shape, data.spec.sample_rate) == ("audio", (1, 50), 11025)
    assert np.array_equal(levels(data.train)[:, 0], sounds)
    assert np.array_equal(levels(data.valid)[:, 0], test)
    assert data.spec.cond["label"].names == ("no", "yes")
    assert data.num_captions == 6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">i2"])
def test_arrays_of_every_type_become_levels(tmp_path: Path, dtype: Any) -> None:
    sounds = np.array([[[0.5, -1.0, 0.25, 0.0]], [[1.0, 0.125, -0.5, 0.75]]])
    values = sounds if np.dtype(dtype).kind == "f" else sounds.clip(-1, 32767 / 32768) * 32768
    np.savez(tmp_path / "a.npz", audio=values.astype(dtype), sample_rate=8000)
    assert np.array_equal(levels(opened(tmp_path / "a.npz").train), np.rint(sounds * 32768).clip(max=32767))


def test_an_npy_of_sixteen_bits_needs_its_rate_told(tmp_path: Path) -> None:
    sounds = noise(5, 30)
    np.save(tmp_path / "a.npy", sounds)
    with pytest.raises(DataError, match=r"without a rate.*data\.sample_rate=N"):
        opened(tmp_path / "a.npy")
    data = opened(tmp_path / "a.npy", sample_rate=8000)
    assert data.spec.sample_rate == 8000
    assert np.array_equal(levels(data.train)[:, 0], sounds)


def test_a_large_array_of_sounds_stays_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", audio=noise(30, 2, 40), sample_rate=8000)
    settings = {"channels": 1, "seconds": 0.004}
    resident = opened(tmp_path / "a.npz", **settings)
    monkeypatch.setattr(arrays_module, "RESIDENT_BYTES", 0)
    streamed = opened(tmp_path / "a.npz", **settings)
    assert streamed.train.streams
    assert np.array_equal(levels(resident.train), levels(streamed.train))
    import pickle

    again = pickle.loads(pickle.dumps(streamed.train.rows))  # type: ignore[attr-defined]
    assert np.array_equal(again.read(np.arange(30)), streamed.train.rows.read(np.arange(30)))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"audio": np.zeros((4, 9), np.int16)}, "without a rate"),
        ({"audio": np.zeros((4, 9), np.int16), "sample_rate": 0}, "'sample_rate' is \\[0\\]"),
        ({"audio": np.zeros((4, 9), np.int16), "sample_rate": 8000.5}, "'sample_rate' is"),
        ({"audio": np.zeros((4, 9), np.int16), "sample_rate": np.arange(3)}, "'sample_rate' is"),
        ({"audio": np.zeros((4, 9), np.int16), "sample_rate": np.zeros(0, int)}, "'sample_rate' is"),
        ({"audio": np.full((4, 9), np.nan, np.float32), "sample_rate": 8000}, "sound 0 has values outside"),
        ({"audio": np.full((4, 9), 300.0, np.float32), "sample_rate": 8000}, "sound 0 has values outside"),
        ({"audio": np.zeros((4, 0), np.int16), "sample_rate": 8000}, "shape"),
        ({"audio": np.zeros((4, 800, 2), np.int16), "sample_rate": 8000}, "no channels"),
        ({"audio": np.zeros((4, 9), np.int64), "sample_rate": 8000}, "no sound"),
        ({"audio": np.zeros(9, np.int16), "sample_rate": 8000}, "no sound"),
        ({"audio": np.zeros((1, 9), np.int16), "sample_rate": 8000}, "one sound only"),
        ({"audio": np.zeros((4, 9), np.int16), "sample_rate": 8000, "labels": np.arange(3)}, "labels of shape"),
    ],
)
def test_arrays_that_are_no_sounds_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "a.npz")


# -- without the extra, and the built-in set --------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these libraries were not installed."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_the_extra_wav_is_read_and_the_rest_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_several(tmp_path / "wav")
    save_several(tmp_path / "mixed", rate=16000)
    save(tmp_path / "mixed" / "a.wav", noise(100))
    for name in "ab":
        save(tmp_path / "flac" / f"{name}.flac", noise(100))
    forbid(monkeypatch, "soundfile", "soxr")
    assert len(opened(tmp_path / "wav").train) == 3
    for name in ("flac", "mixed"):
        with pytest.raises(ConfigError, match=r'missing - pip install "genai-trainer\[audio\]"'):
            opened(tmp_path / name, on_bad="skip")


def test_spoken_digits_are_the_original_files(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ.get("GENAI_TEST_DATA", "")) / "spoken_digits"
    if not os.environ.get("GENAI_TEST_DATA") or not folder.is_dir():
        pytest.skip("GENAI_TEST_DATA does not name the test data")
    ours = open_source(DataConfig(name="spoken_digits", seconds=1.024))
    theirs = open_source(DataConfig(name="spoken_digits", path=str(folder), seconds=1.024))  # type: ignore[arg-type]
    assert isinstance(ours, Source)
    assert isinstance(theirs, Source)

    def contents(source: Source) -> set[tuple[bytes, int, str]]:
        assert source.train.labels is not None
        assert source.train.captions is not None
        assert isinstance(source.train.x, np.ndarray)
        return {
            (x.tobytes(), int(label), text)
            for x, label, text in zip(source.train.x, source.train.labels, source.train.captions, strict=True)
        }

    assert contents(ours) == contents(theirs)
    assert len(contents(ours)) == 1100


def test_spoken_digits_have_a_hundred_and_ten_clips_of_each_digit_and_need_no_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid(monkeypatch, "soundfile", "soxr")
    data = open_data(DataConfig(name="spoken_digits", seconds=1.024), predicts="data")
    assert data.valid is not None
    assert (len(data.train), len(data.valid), data.num_captions) == (990, 110, 1100)
    assert (data.spec.shape, data.spec.sample_rate) == ((1, 8192), 8000)
    assert data.spec.cond["label"].names == tuple("0123456789")
    told = describe("spoken_digits", DataConfig(name="spoken_digits", seconds=1.024))
    assert (told["modality"], told["sample_rate"], told["seconds"]) == ("audio", 8000, 1.024)
    assert set(told["classes"].values()) == {110}
    assert open_data(DataConfig(name="spoken_digits"), predicts="data").spec.shape == (1, 7113)


def test_another_set_of_digits_is_read_with_their_classes_and_pictures_are_refused(tmp_path: Path) -> None:
    for name in ("0", "3", "7"):
        save_several(tmp_path / "spoken" / name, 2)
    source = open_source(DataConfig(name="spoken_digits", path=str(tmp_path / "spoken")))  # type: ignore[arg-type]
    assert isinstance(source, Source)
    assert source.train.labels is not None
    assert source.train.labels.tolist() == [0, 0, 3, 3, 7, 7]
    with pytest.raises(DataError, match="data=digits has pictures, here are sounds"):
        open_source(DataConfig(name="digits", path=str(tmp_path / "spoken")))  # type: ignore[arg-type]


def test_a_configuration_with_sounds_is_composed_without_what_reads_them(tmp_path: Path) -> None:
    save_several(tmp_path / "folder")
    np.savez(tmp_path / "a.npz", audio=noise(3, 9), sample_rate=8000)
    code = (
        "import sys; from genai.data.source import modality_of; "
        f"print(*(modality_of('path', p) for p in ({str(tmp_path / 'folder')!r}, {str(tmp_path / 'a.npz')!r})), "
        "modality_of('spoken_digits', None)); "
        "assert not {'torch', 'numpy', 'soundfile', 'soxr', 'wave'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["audio"] * 3
