"""Tunes in ABC notation: found in text, written one by one, and played as they are written."""

from __future__ import annotations

import lzma
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from genai import tunes
from genai.text_samples import Told
from genai.text_samples import write as write_text

REEL = "X:7\nT:The Reel of One Bar\nM:4/4\nL:1/8\nK:D\n|:FAdf ecAc:|"
JIG = 'M:6/8\nL:1/8\nK:Edor\n% for Nell\n|:"Em"B2A {c}GFE|~F3 vE2z:|'


def test_tunes_are_found_by_what_they_hold() -> None:
    assert tunes.tunes_of(REEL) == [REEL]
    assert tunes.tunes_of(f"dB AG:|\n\n{JIG}\n\nThe end.\n \n{REEL}\n{REEL}") == [JIG, REEL, REEL]


@pytest.mark.parametrize(
    "text",
    [
        "KING HENRY V.\nA: Once more\nK: unto the breach, dear friends, once more",
        "M: 4/4 is how we play it.\nK: A bad idea, and a cabbage faced egg.",
        "X:1\nT:A tune without music\nM:4/4\nK:D\n",
        "X:1\nM:4/4\nK:G\nThen let us all be merry, said the king, and so they were.",
        "CC(=O)Nc1ccc(O)cc1\nCCN(CC)CC\nCC[C@@H]1CCC(=O)O1",
        "X: int = 1\nL: int = 8\n\ndef play(K: str) -> None:\n    print(K)\n",
        "GABc dedB|dedB dedB|c2ec B2dB|c2A2 A2BA|",
        "",
    ],
)
def test_other_text_is_none(text: str) -> None:
    assert tunes.tunes_of(text) == []


def test_no_play_and_no_poem_in_the_package_is_a_tune() -> None:
    for name in ("shakespeare", "tang_poems"):
        text = lzma.decompress(files("genai.data.builtin").joinpath(f"{name}.txt.xz").read_bytes())
        assert tunes.tunes_of(text.decode()) == []


def told(*texts: str) -> list[Told]:
    return [Told(text[:3], text[3:], True, ()) for text in texts]


def without_music21(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "music21", None)


def test_each_tune_is_a_file_with_a_number_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_music21(monkeypatch)
    names = tunes.write(tmp_path, [REEL, "no tune", f"{JIG}\n\n{REEL}"])
    assert names == ["00000.abc", "00002.abc", "00002-2.abc"]
    assert (tmp_path / "00000.abc").read_text() == REEL + "\n"
    assert (tmp_path / "00002.abc").read_text() == f"X:1\n{JIG}\n"
    hint = '3 tunes as .abc - for .mid, too, type pip install "genai-trainer[music]"'
    assert tunes.about(names) == hint
    assert tunes.about(["samples.txt", "samples.jsonl"]) is None


def test_a_tune_that_cannot_be_read_is_an_abc_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunes, "_music21", lambda: sys)
    monkeypatch.setattr(tunes, "as_midi", lambda tune: b"MThd" if tune == REEL else None)
    names = tunes.write(tmp_path, [REEL, JIG])
    assert names == ["00000.abc", "00000.mid", "00001.abc"]
    assert tunes.about(names) == "2 tunes as .abc, 1 as .mid: music21 cannot read the others"
    assert tunes.about(names[:2]) == "1 tune as .abc and .mid"


def test_text_without_tunes_is_written_as_ever(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    lines = told("First Citizen:\nSpeak.", "A: Who is there?")
    written = write_text(tmp_path / "a", lines)
    assert tunes.write(tmp_path / "b", [each.prompt + each.text for each in lines]) == []
    assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted(written)


# -- music -------------------------------------------------------------------------------------------------------------


def notes_of(midi: bytes) -> tuple[list[tuple[float, float, int]], float]:
    """(start, length, pitch) of each note, in quarters, and the tempo in quarters a minute, read by the standard."""
    assert midi[:4] == b"MThd"
    count, ticks = int.from_bytes(midi[10:12], "big"), int.from_bytes(midi[12:14], "big")
    place, found, microseconds = 14, [], 0
    for _ in range(count):
        assert midi[place : place + 4] == b"MTrk"
        place, end = place + 8, place + 8 + int.from_bytes(midi[place + 4 : place + 8], "big")
        now, status, sounding = 0, 0, {}
        while place < end:
            delta, place = number_at(midi, place)
            now += delta
            if midi[place] & 0x80:
                status, place = midi[place], place + 1
            if status == 0xFF:
                kind, (size, place) = midi[place], number_at(midi, place + 1)
                if kind == 0x51:
                    microseconds = microseconds or int.from_bytes(midi[place : place + size], "big")
                place += size
            elif status >> 4 in (8, 9):
                pitch, loud = midi[place], status >> 4 == 9 and midi[place + 1] > 0
                if loud:
                    assert pitch not in sounding
                    sounding[pitch] = now
                else:
                    found.append((sounding[pitch] / ticks, (now - sounding.pop(pitch)) / ticks, pitch))
                place += 2
            else:
                place += 1 if status >> 4 in (12, 13) else 2
        assert not sounding, "a note without an end"
    return sorted(found), 6e7 / microseconds


def number_at(midi: bytes, place: int) -> tuple[int, int]:
    value = 0
    while True:
        value, place = value << 7 | midi[place] & 0x7F, place + 1
        if not midi[place - 1] & 0x80:
            return value, place


def played(music: str, *fields: str) -> list[tuple[float, int]]:
    """(quarters, pitch) of notes that follow on each other; tunes begin without a rest."""
    midi = tunes.as_midi("\n".join(["X:1", *(fields or ("M:4/4", "L:1/4")), "K:G", music]))
    assert midi is not None
    notes, _ = notes_of(midi)
    return [(round(length, 4), pitch) for _, length, pitch in notes]


D, F, G, A, B, C = 62, 65, 67, 69, 71, 72
THIRDS = [(0.6667, G), (0.6667, A), (0.6667, B)]


@pytest.mark.parametrize(
    ("music", "expected"),
    [
        ("G F =F F | F2 _B,4", [(1, G), (1, F + 1), (1, F), (1, F), (2, F + 1), (4, B - 13)]),  # up to the bar line
        ("G3/2A/ B>c d<d (3GAB", [(1.5, G), (0.5, A), (1.5, B), (0.5, C), (0.5, D + 12), (1.5, D + 12), *THIRDS]),
        ("(B>)c", [(1.5, B), (0.5, C)]),  # behind a slur
        ("^G2-|G2 A-B", [(4, G + 1), (1, A), (1, B)]),  # a tie, and what is none
        ('{g}G !trill!A ~B "Am"c', [(1, G), (1, A), (1, B), (1, C)]),
        ("[K:F]B x A [L:1/8]A", [(1, B - 1), (1, A), (0.5, A)]),
        ("V:1\nG2 A2\nV:2\nD4", [(2, G), (4, D), (2, A)]),
        ("[GB]2 [DG]", [(2, G), (2, B), (1, D), (1, G)]),
    ],
)
def test_notes_are_those_that_are_written(music: str, expected: list[tuple[float, int]]) -> None:
    pytest.importorskip("music21")
    assert played(music) == expected


@pytest.mark.parametrize(
    ("music", "order"),
    [
        ("|:G|A:|B", "GAGAB"),
        ("G|A:|B|c:|", "GAGABcBc"),  # from the end of the last one
        ("G||A:|B", "GAAB"),  # from a double bar
        ("|:G||A:|B", "GAGAB"),  # unless it says where it begins
        ("|:G|1A:|2B||c", "GAGBc"),
        ("G[1A:|[2B:|c:|", "GAGBcc"),
        ("|:G::A::B||:c:|", "GGAABcc"),  # a bar whose note and colon look like a field
    ],
)
def test_repeats_are_played(music: str, order: str) -> None:
    pytest.importorskip("music21")
    assert [pitch for _, pitch in played(music)] == [{"G": G, "A": A, "B": B, "c": C}[name] for name in order]


def test_tempo_is_of_the_beat_that_is_named() -> None:
    pytest.importorskip("music21")
    for field, expected in (("Q:3/8=80", 120), ("Q: 90", 90), ("Q:1/4=0", 120), ("Q:fast", 120), ("Q:1/64=20", 120)):
        midi = tunes.as_midi(f"X:1\nM:6/8\nL:1/8\n{field}\nK:G\nGAB c2d|")
        assert midi is not None
        assert notes_of(midi)[1] == pytest.approx(expected, rel=1e-5), field


@pytest.mark.parametrize("music", ["z4|z4|", "[GB", "G/0 A", "|1G" * 400 + "|2A9999", "^^^^^^G"])
def test_what_is_no_music_is_not_played(music: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("music21")
    assert tunes.as_midi(f"X:1\nL:1/4\nK:G\n{music}\n") is None
    assert capfd.readouterr().err == ""
