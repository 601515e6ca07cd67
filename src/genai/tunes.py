"""Tunes in ABC notation (standard 2.1, abcnotation.com): found in text by what they hold, and written one by one as
.abc and, where music21 is installed, as .mid."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_FIELD = re.compile(r"([A-Za-z]):(?![|:])\s*(.*)")  # `B:|` at the head of a line is a note before a repeat
_BETWEEN_TUNES = re.compile(r"\n[^\S\n]*\n|\n(?=X:\s*\d)")
_METRE, _UNIT = re.compile(r"C\|?$|\d+/\d+$"), re.compile(r"1/\d+$")
_KEY = re.compile(r"([A-G][#b]?\s*(m|maj|min|ion|dor|phr|lyd|mix|aeo|loc)?[a-z]*|hp|none)?(\s|$)", re.IGNORECASE)
_TEMPO = re.compile(r"(\d+/\d+\s+)*(\d+/\d+\s*=\s*)?[1-9]\d{0,2}$")
_OF_A_TUNE = {"X": re.compile(r"\d+$"), "M": _METRE, "L": _UNIT}  # one of these is in its header
_HEARD = {"M": _METRE, "L": _UNIT, "K": _KEY, "Q": _TEMPO}  # fields that change how it sounds
_ASIDE = re.compile(r'%.*|"[^"\n]*"|![^!\n]*!|\{[^}\n]*\}')  # comments, names of chords, ornaments, grace notes
_INLINE = re.compile(r"\[([A-Z]:[^\]\n]*)\]")
_NOTES, _RESTS, _BOWED = "ABCDEFGabcdefg", "zx", "uvT"
# Rests of whole bars, space, slurs, bowing and the like; an opening bracket with a number is of a tuplet.
_SILENT = re.compile(rf"[Zy]\d*/*\d*|\((?!\d)|[^{_NOTES}{_RESTS}\d/,'^_=|:\[\](<>\s-]")
_LEAST_NOTES, _MOST_OTHERS = 4, 0.2  # of a tune: notes, and the share of its letters that say nothing of the kind
_LONGEST_QUARTERS = 4_000  # of a tune with its repeats; at 120 in a minute more than half an hour
_SLOWEST = 5  # quarters in a minute; MIDI cannot say less than 3.6


def tunes_of(text: str) -> list[str]:
    """The tunes in a text, each from its header to an empty line: a number (X:), a metre (M:) or a unit of length (L:)
    among the fields above its key (K:), and music below that."""
    return [tune for tune in (part.strip() for part in _BETWEEN_TUNES.split(text)) if _is_tune(tune)]


def _is_tune(text: str) -> bool:
    lines, known = iter(text.splitlines()), False
    for line in lines:
        field = _FIELD.match(line)
        if field is None and not known and not line.startswith("%"):
            return False
        name, value = ("%", "") if field is None else (field[1], field[2].strip())
        if name == "K":
            known &= _KEY.match(value) is not None
            break
        if name in _OF_A_TUNE:
            known |= _OF_A_TUNE[name].match(value) is not None
    music = _ASIDE.sub("", "\n".join(line for line in lines if not _FIELD.match(line)))
    letters = [character for character in music if character.isalpha()]
    notes = sum(letter in _NOTES for letter in letters)
    others = sum(letter not in _NOTES + _RESTS + _BOWED for letter in letters)
    return known and notes >= _LEAST_NOTES and others <= _MOST_OTHERS * len(letters)


def write(folder: Path, texts: Sequence[str]) -> list[str]:
    """`00000.abc` ... of each text that is a tune (`00000-2.abc` ... where it holds several), and beside it the .mid of
    one that music21 can read, where that is installed. Raises OSError."""
    names = []
    digits = max(5, len(str(len(texts))))
    for number, text in enumerate(texts):
        for place, tune in enumerate(tunes_of(text), 1):
            stem = f"{number:0{digits}d}" + (f"-{place}" if place > 1 else "")
            numbered = tune if tune.startswith("X:") else f"X:1\n{tune}"  # programs look for it, first of all
            (folder / f"{stem}.abc").write_text(numbered + "\n", encoding="utf-8")
            names.append(f"{stem}.abc")
            sound = as_midi(numbered)
            if sound is not None:
                (folder / f"{stem}.mid").write_bytes(sound)
                names.append(f"{stem}.mid")
    return names


def about(names: Iterable[str]) -> str | None:
    """What became of tunes, by the files that were written; None where there are none."""
    endings = [name.rpartition(".")[2] for name in names]
    tunes, sounds = endings.count("abc"), endings.count("mid")
    if not tunes:
        return None
    told = f"{tunes:,} {'tune' if tunes == 1 else 'tunes'} as .abc"
    if _music21() is None:
        return f'{told} - for .mid, too, type pip install "genai-trainer[music]"'
    return f"{told} and .mid" if sounds == tunes else f"{told}, {sounds:,} as .mid: music21 cannot read the others"


def as_midi(tune: str) -> bytes | None:
    """A tune as it is played: with its repeats, and with accidentals that hold to the bar line; without grace notes,
    ornaments and chords that are named above it. None where music21 cannot read it, or is not installed.

    Of music21 the reader of notes and the writer of MIDI are used, not what it makes of a whole tune: there a repeat
    goes back too far, a tie to another note swallows that, and one real tune in twelve is refused.
    """
    library = _music21()
    if library is None:
        return None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where it names what it does not know
            score = library.stream.Score()
            for voice in _voices(tune):
                handler = library.abcFormat.ABCHandler(abcVersion=(2, 1, 0))
                handler.process(voice)
                part = _part(_unrolled(handler.tokens, library.abcFormat), library)
                if part.notes:
                    score.insert(0, part)
            return library.midi.translate.streamToMidiFile(score).writestr() if len(score) else None
    except Exception:  # whatever a broken tune makes it raise
        return None


def _music21() -> Any:
    try:
        return import_module("music21")
    except ImportError:
        return None


def _voices(tune: str) -> list[str]:
    """Of each voice of a tune what is heard: fields on lines of their own, notes, rests and bars."""
    header: list[str] = []
    voices: dict[str, list[str]] = {}
    voice, in_header = "", True
    for line in _INLINE.sub(r"\n\1\n", _ASIDE.sub("", tune)).splitlines():
        field = _FIELD.match(line)
        name, value = ("", "") if field is None else (field[1], field[2].strip())
        if name == "V" and value:
            voice = value.split()[0]
        elif name in _HEARD and _HEARD[name].match(value):
            (header if in_header else voices.setdefault(voice, [])).append(f"{name}:{value}")
        elif field is None and not in_header:
            voices.setdefault(voice, []).append(_music(line))
        in_header &= name != "K"
    if not any(line[0] in "LM" for line in header):
        header.insert(0, "L:1/8")
    return ["\n".join([*header, *lines, ""]) for lines in voices.values()]


def _music(line: str) -> str:
    """As music21 reads it, which takes `A::` for a field, and finds no `>` between notes behind a slur."""
    for written, meant in (("x", "z"), ("[|]", "|"), ("||:", "|:"), ("[|:", "|:"), (":|:", "::"), ("::", " ::")):
        line = line.replace(written, meant)
    return _SILENT.sub("", line)


def _unrolled(tokens: Sequence[Any], abc: Any) -> list[Any]:
    """In the order in which they are played. An end of a repeat without a start goes back to the last end of one or
    double bar, or to the beginning (section 4.8 of the standard)."""
    played: list[Any] = []
    shared: list[Any] = []  # of the section that is being read: what stands before its endings
    endings: list[list[Any]] = []
    repeated = opened = False  # whether the section is, and whether it says where it starts

    def close() -> None:
        nonlocal repeated, opened
        for ending in endings or [[]]:
            played.extend([*shared, *ending])
        if repeated and len(endings) < 2:
            played.extend(shared)
        shared.clear()
        endings.clear()
        repeated = opened = False

    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if not isinstance(token, abc.ABCBar):
            (endings[-1] if endings else shared).append(token)
        elif number := token.isRepeatBracket():
            if len(endings) >= number:
                close()
            endings.append([])
        elif token.repeatForm == "end":
            repeated = True
            if not (endings and isinstance(following, abc.ABCBar) and following.isRepeatBracket()):
                close()
        elif token.repeatForm == "start":
            close()
            opened = True
        elif not token.isRegular() and token.barStyle != "dotted" and (len(endings) > 1 or not opened):
            close()
    close()
    return played


def _part(tokens: Sequence[Any], library: Any) -> Any:
    """A row of notes. Raises whatever music21 does, and ValueError for one that is very long."""
    abc = library.abcFormat
    part, offset = library.stream.Part(), 0.0
    last: Any = None
    tied_to: list[tuple[str, str]] = []  # the places on the staff of notes that the next ones go on with, if they can
    for token in tokens:
        if isinstance(token, abc.ABCMetadata) and (told := _told(token)) is not None:
            part.insert(offset, told)
        if not isinstance(token, abc.ABCNote):
            continue
        tuplet = token.activeTuplet
        length = token.quarterLength * (1 if tuplet is None else tuplet.tupletMultiplier())
        notes = token.subTokens if isinstance(token, abc.ABCChord) else [token]
        pitches = [note.pitchName for note in notes if note.pitchName is not None]
        places = [(name[0], name[-1]) for name in pitches]
        if places and places == tied_to and not set(token.src) & set("^_="):  # an accidental holds as long as a tie
            last.quarterLength += length
        elif pitches and length:
            last = library.chord.Chord(pitches) if len(pitches) > 1 else library.note.Note(pitches[0])
            last.quarterLength = length
            part.insert(offset, last)
        tied_to = places if token.tie in ("start", "continue") else []
        offset += length
        if offset > _LONGEST_QUARTERS:
            raise ValueError(f"more than {_LONGEST_QUARTERS:,} quarters")
    return part


def _told(field: Any) -> Any:
    if field.isMeter():
        return field.getTimeSignatureObject()
    if field.isKey():
        return field.getKeySignatureObject()
    mark = field.getMetronomeMarkObject() if field.isTempo() else None
    return mark if mark is not None and mark.getQuarterBPM() >= _SLOWEST else None
