"""What a person sees while something runs: one live block on a terminal, plain lines elsewhere; all on stderr.

The only file that draws progress. Nothing here may stop a training: a terminal that went away is written to no more.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

REDRAW_SECONDS = 0.2  # between redraws of the live block
BAR_WIDTH = 30
MAX_TERMS = 4


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `fraction` is of the budget, None where it cannot be told yet."""

    step: int
    samples: int
    seconds: float
    fraction: float | None = None
    eta_seconds: float | None = None
    samples_per_second: float = 0.0
    memory_bytes: int = 0
    terms: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None  # of a model of ids
    mfu: float | None = None  # operations that training takes, over those that the device could do


class Console:
    """Notes, warnings and progress on `stream` (default stderr); with `quiet`, warnings alone."""

    def __init__(self, *, quiet: bool = False, log_seconds: float = 10.0, stream: TextIO | None = None) -> None:
        self.quiet, self.log_seconds = quiet, log_seconds
        self._stream = stream
        self._label = ""
        self._drawn = -float("inf")
        self._pending: Progress | None = None  # told, and not drawn yet
        self._live: Any = None

    @property
    def stream(self) -> TextIO | None:
        return self._stream if self._stream is not None else sys.stderr

    @property
    def watched(self) -> bool:
        """Whether a person looks: a terminal that can move its cursor."""
        try:
            return self.stream is not None and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        except ValueError:  # a closed stream
            return False

    def note(self, text: str) -> None:
        if not self.quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def start(self, label: str) -> None:
        """Progress from here on is of `label`; the first line comes at once."""
        self._label, self._drawn, self._pending = label, -float("inf"), None

    def progress(self, progress: Progress) -> None:
        """Redraws the block, or writes a line, where the last one is old enough. Cheap enough to call at every log."""
        if self.quiet:
            return
        self._pending = progress
        now = time.monotonic()
        if now - self._drawn < (REDRAW_SECONDS if self.watched else self.log_seconds):
            return
        self._drawn = now
        self._draw(progress)

    def stop(self) -> None:
        """Leaves the last state behind, as the block or as a line."""
        if self._pending is not None:
            self._draw(self._pending)
        if self._live is not None:
            live, self._live = self._live, None
            _harmlessly(live.stop)

    @contextmanager
    def transfer(self, name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """A bar of bytes where a person looks, else nothing; what it yields is told how many have come so far."""
        if self.quiet or not self.watched:
            yield lambda done: None
            return
        import threading

        from tqdm import tqdm

        class Bar(tqdm):
            monitor_interval = 0  # no thread of its own: it would not survive the processes that data loading starts

        Bar.set_lock(threading.RLock())  # nor a lock between processes
        bar = Bar(desc=name, total=total_bytes, unit="B", unit_scale=True, file=self.stream, leave=False)
        try:
            yield lambda done: _harmlessly(lambda: bar.update(done - bar.n))
        finally:
            _harmlessly(bar.close)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the keys of the first as columns, on stdout: it is a result."""
        print(table_text(title, rows))

    def _draw(self, progress: Progress) -> None:
        self._pending = None
        if not self.watched:
            self._line(line_text(self._label, progress))
            return
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.text import Text

        def draw() -> None:
            # No refresh thread: it would not survive the processes that data loading starts.
            if self._live is None:
                console = RichConsole(file=self.stream, highlight=False)
                self._live = Live(console=console, auto_refresh=False)
                self._live.start()
            block = block_text(self._label, progress, width=self._live.console.width)
            self._live.update(Text(block, overflow="ellipsis", no_wrap=True), refresh=True)

        _harmlessly(draw)

    @contextmanager
    def telling(self) -> Iterator[Callable[[str], None] | None]:
        """Where a person looks, what is told again and again how a text goes so far; None elsewhere."""
        if self.quiet or not self.watched:
            yield None
            return
        written = 0

        def tell(text: str) -> None:
            nonlocal written
            text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)  # nothing moves the cursor
            new = text[written:].rstrip("\ufffd")  # what may be half a character
            if new and self.stream is not None:
                written += len(new)
                _harmlessly(lambda: (self.stream.write(new), self.stream.flush()))

        try:
            yield tell
        finally:
            self._line("")

    def _line(self, text: str) -> None:
        def write() -> None:
            if self._live is not None:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            elif self.stream is not None:
                self.stream.write(text + "\n")
                self.stream.flush()

        _harmlessly(write)


def line_text(label: str, progress: Progress) -> str:
    """One line: `gan on digits: step 120, 7,680 samples, 12 %, 1.2k/s, 0:00:08 left, generator/loss 0.693`."""
    parts = [f"step {progress.step:,}", f"{progress.samples:,} samples"]
    if progress.fraction is not None:
        parts.append(f"{100 * min(progress.fraction, 1.0):.0f} %")
    if progress.samples_per_second:
        parts.append(_speed(progress))
    if progress.eta_seconds is not None:
        parts.append(f"{clock(progress.eta_seconds)} left")
    if progress.memory_bytes:
        parts.append(f"{progress.memory_bytes / 2**20:,.0f} MiB")
    parts += [f"{name} {value:.4g}" for name, value in _main_terms(progress.terms)]
    return (f"{label}: " if label else "") + ", ".join(parts)


def _speed(progress: Progress) -> str:
    if progress.tokens_per_second is not None:
        share = "" if progress.mfu is None else f", MFU {100 * progress.mfu:.0f} %"
        return f"{progress.tokens_per_second:,.0f} tokens/s{share}"
    return f"{progress.samples_per_second:,.0f} samples/s"


def block_text(label: str, progress: Progress, width: int = 80) -> str:
    """The live block: what runs, a bar, speed and memory, and those of the main terms that fit."""
    fraction = min(progress.fraction or 0.0, 1.0)
    filled = round(BAR_WIDTH * fraction)
    bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * fraction:3.0f} %"
    left = f", {clock(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    memory = f", {progress.memory_bytes / 2**20:,.0f} MiB" if progress.memory_bytes else ""
    lines = [
        f"{label}  {bar}  {clock(progress.seconds)}{left}",
        f"step {progress.step:,}, {progress.samples:,} samples, {_speed(progress)}{memory}",
    ]
    terms = [f"{name} {value:.4g}" for name, value in _main_terms(progress.terms)]
    while len(terms) > 1 and len("  ".join(terms)) > width:
        terms.pop()
    return "\n".join(lines + (["  ".join(terms)] if terms else []))


def clock(seconds: float) -> str:
    """h:mm:ss; more than 99 days is said to be that."""
    if not seconds < 99 * 86400:
        return "over 99 days"
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def table_text(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns aligned with spaces, numbers to the right; wide characters count for two."""
    if not rows:
        return f"{title}: none" if title else "none"
    names = list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    right = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    widths = [max(_width(line[i]) for line in [names, *cells]) for i in range(len(names))]
    lines = [title] if title else []
    for line in [names, *cells]:
        padded = [
            " " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or "-"
    return " ".join(str(value).split())


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _main_terms(terms: Mapping[str, float]) -> list[tuple[str, float]]:
    """The losses first, then the others in their order, as many as fit."""
    ordered = sorted(terms.items(), key=lambda item: not item[0].endswith("/loss"))
    return ordered[:MAX_TERMS]


def _harmlessly(write: Any) -> None:
    try:
        write()
    except (OSError, ValueError):
        # The terminal or the pipe is gone (SSH lost, `| head`), or was closed: training goes on without words.
        return
