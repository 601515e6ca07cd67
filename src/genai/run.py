"""The folder of one training run: its lock, run.json, settings, metrics and log. No torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import secrets
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genai import checkpoint as checkpoints
from genai import documents
from genai.documents import write_atomically
from genai.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    ConfigErrors,
    Interrupted,
    OutputError,
    SecurityError,
    to_resume,
)
from genai.lock import Lock, is_held
from genai.metrics_file import MetricsFile
from genai.run_info import Best, RunInfo, encode_info, read_info
from genai.schema import RunConfig, plain, read
from genai.tensorfile import refuse_pickle

RUN, METRICS, LOG, LOCK = "run.json", "metrics.jsonl", "log.txt", ".lock"
DOCUMENTS = ("config.json", "spec.json")
_OURS = {RUN, METRICS, LOG, LOCK, *DOCUMENTS, "checkpoints", "previews", "samples", "eval", "codec"}
_POSITION = ("step", "samples", "seconds")
_WRITABLE = "make the folder writable"


class RunFolder:
    """A run folder. Made by `create` or `reopen`, which hold its lock until `close`, or by `read`, which takes none.

    A full disk never ends a training by way of its log, metrics or run.json: `warn` is told once, and writing is tried
    again later.
    """

    def __init__(self, path: Path, info: RunInfo, lock: Lock | None = None) -> None:
        self.path, self.info, self._lock = path, info, lock
        self._made = False  # whether the folder itself was made for this run
        self.warn: Callable[[str], None] = lambda message: print(f"warning: {message}", file=sys.stderr)
        self._metrics = MetricsFile(path / METRICS)
        self._warned: set[str] = set()

    # -- opening and closing -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, run: RunConfig, *, model: str) -> RunFolder:
        """A new, locked run folder.

        Raises BusyError where a run is, OutputError where it cannot be or would overwrite files of somebody's, and
        ConfigError for a bad name.
        """
        path = _new_path(run, model)
        made = True
        with _output_errors(path):
            if path is None:
                path = _dated_folder(Path(run.root) / model)
            else:
                try:
                    path.mkdir(parents=True)
                except FileExistsError:  # of two that start at once, one makes it
                    made = False
            lock = Lock(path / LOCK)
        try:
            _refuse_taken(path)
        except BaseException:  # nothing here is ours to undo, not even a folder made: another's run may be in it by now
            lock.release()
            raise
        try:
            info = RunInfo(
                id=uuid.uuid4().hex,
                status="running",
                model=model,
                name=path.name,
                created=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
            created = cls(path, info, lock)
            created._made = made
            content = encode_info(info)
            with _output_errors(path):
                created.checkpoints.mkdir(exist_ok=True)
                (path / METRICS).write_bytes(b"")
                # Last, since it is what makes a folder a run: a kill before it leaves a folder that can be taken again.
                write_atomically(path / RUN, content)
                documents.sync_folder(path.parent)
        except BaseException:
            if made:
                _undo(path)
            lock.release()
            raise
        return created

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """A run to go on with: locked, cleared of what a kill left. Raises CheckpointError, BusyError, OutputError."""
        path = Path(path)
        _require_run(path)
        with _output_errors(path, fix=_WRITABLE):
            lock = Lock(path / LOCK)
        try:
            with _output_errors(path, fix=_WRITABLE):
                checkpoints.sweep(path / "checkpoints")
            opened = cls(path, read_info(path / RUN), lock)
            opened._require_parts()
        except BaseException:
            lock.release()
            raise
        return opened

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """A run to look at or sample from. Raises CheckpointError where something of it is missing or changed."""
        opened = look(Path(path))
        opened._require_parts()
        return opened

    def refresh(self) -> None:
        """Takes up what another process of the same job wrote into run.json."""
        self.info = read_info(self.path / RUN)

    def begin(self, config: Any, spec: Any, **facts: Any) -> None:
        """Notes that training begins, now or again, with these settings on such data."""
        self.write_document("config.json", config)
        self.write_document("spec.json", spec)
        self.update(status="running", error=None, starts=self.info.starts + 1, **facts)

    def note_error(self, error: BaseException) -> None:
        """Notes how a training ended that did not finish."""
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        text = " ".join(str(error).split()).replace("${", "$ {")  # which no document may hold
        self.update(status="stopped" if stopped else "failed", error=None if stopped else text)

    def close(self) -> None:
        """Writes what is pending and releases the lock."""
        known = self._metrics.facts()
        self.tell(self._metrics.close())
        if self._metrics.facts() != known:
            self.update(metrics_file=self._metrics.facts())
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def discard(self) -> None:
        """Takes back a run that never began: what it wrote, all of which `create` found absent, and a folder made."""
        self._metrics.close()
        _undo(self.path, folder=self._made)
        self.close()

    # -- run.json and the documents ------------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Replaces values of run.json, checked by their types, at once and atomically."""
        try:
            self.info = read(RunInfo, {**plain(self.info), **{key: _plain(value) for key, value in changes.items()}})
        except ConfigErrors as error:
            raise TypeError(f"run.json cannot hold this: {error}") from error
        try:
            self._write_info()
        except OSError as error:
            self.tell(f"cannot write {self.path / RUN}: {error.strerror}; training goes on")

    def _write_info(self) -> None:
        write_atomically(self.path / RUN, encode_info(self.info))

    def saved(self, checkpoint: str, *, step: int, samples: int, seconds: float, best: Best | None) -> None:
        """Notes the newest checkpoint, by its folder's name, and the best so far."""
        self.update(
            checkpoint=checkpoint,
            best=best,
            steps=step,
            samples=samples,
            seconds=seconds,
            metrics_file=self._metrics.facts(),
        )

    def write_document(self, name: str, data: Any) -> None:
        """Writes config.json or spec.json and its hash into run.json. Raises OutputError."""
        assert name in DOCUMENTS
        content = documents.encode(_plain(data))
        digest = hashlib.sha256(content).hexdigest()
        known = self.info.documents.get(name, [])
        if known == [digest] and (self.path / name).is_file():
            return
        with _output_errors(self.path / name):
            # Both hashes count while either file may be there: a kill in between is no damage.
            self.info = replace(self.info, documents={**self.info.documents, name: [digest, *known]})
            self._write_info()
            write_atomically(self.path / name, content)
            self.info = replace(self.info, documents={**self.info.documents, name: [digest]})
            self._write_info()

    def document(self, name: str) -> Any:
        """Plain data of config.json or spec.json. Raises CheckpointError where it is not what was written."""
        path = self.path / name
        content = documents.read_bytes(path)
        data = documents.parse(content, path)
        if hashlib.sha256(content).hexdigest() not in self.info.documents.get(name, []):
            raise CheckpointError(
                "changed since the run wrote it", path=path, fix="restore it, or copy it from a checkpoint"
            )
        return data

    # -- metrics and log -----------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, written at once; what is not finite becomes null."""
        values = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self.tell(self._metrics.append(values))
        self._note_metrics(values)

    def flush_metrics(self) -> None:
        """Metrics on disk, such that a checkpoint written next is never ahead of them."""
        self.tell(self._metrics.sync())

    def check_metrics(self, step: int) -> None:
        """Raises CheckpointError where what was logged until `step` is damaged."""
        self._metrics.until(step)

    def truncate_metrics(self, step: int) -> None:
        """Drops what was logged after `step`. Raises CheckpointError for a damaged line before it, and OutputError."""
        with _output_errors(self.path / METRICS):
            kept = self._metrics.truncate(step, note=lambda facts: self.update(metrics_file=facts))
        self.info = replace(self.info, metrics={}, steps=step)
        for values in kept:
            self._note_metrics(values)

    def metrics(self) -> list[dict[str, float | None]]:
        """All lines; a half last line, the sign of a kill, is left out. Raises CheckpointError for a damaged one."""
        return self._metrics.read()

    def log(self, text: str) -> None:
        """A line with its time at the end of log.txt."""
        try:
            with open(documents.open_to_append(self.path / LOG), "a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text.rstrip()}\n")
        except OSError as error:
            self.tell(f"cannot write {self.path / LOG}: {error.strerror}; training goes on")

    def _note_metrics(self, values: Mapping[str, float | None]) -> None:
        metrics = {**self.info.metrics, **{k: v for k, v in values.items() if k not in _POSITION}}
        steps, samples = int(values.get("step") or self.info.steps), int(values.get("samples") or self.info.samples)
        seconds = float(values.get("seconds") or self.info.seconds)
        self.info = replace(self.info, metrics=metrics, steps=steps, samples=samples, seconds=seconds)

    def tell(self, trouble: str | None) -> None:
        """Warns of something that does not end the training, once."""
        if trouble is not None and trouble not in self._warned:
            self._warned.add(trouble)
            self.warn(trouble)

    # -- folders -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r}: {self.info.status}, {self.info.steps:,} steps)"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def codec(self) -> Path:
        return self.path / "codec"

    def _require_parts(self) -> None:
        """The documents and metrics.jsonl are what was written, and the newest checkpoint that run.json names, or a
        later one that a kill kept from being noted, is there."""
        for name in self.info.documents if self.info.starts else ():
            self.document(name)
        self._metrics.require(self.info.metrics_file, whole=self.info.status == "finished")
        if self.info.checkpoint is None:
            return
        if max(checkpoints.steps(self.checkpoints), default=-1) < int(self.info.checkpoint.removeprefix("step_")):
            path = self.checkpoints / self.info.checkpoint
            raise CheckpointError(
                "the checkpoint that run.json names is missing", path=path, fix="restore it from a copy"
            )


def has_begun(path: Path) -> bool:
    """Whether a training began in this folder; a run that was killed before is none yet."""
    try:
        return read_info(path / RUN).starts > 0
    except (CheckpointError, SecurityError):
        return (path / RUN).exists()


def home(path: Path) -> Path | None:
    """The run folder that `path` is, or that it is a checkpoint of; None where there is none."""
    return next((folder for folder in (path, path.resolve().parent.parent) if (folder / RUN).is_file()), None)


def run_or_checkpoint(path: Path) -> Path:
    """`path`, if it looks like one. Raises CheckpointError, and SecurityError for pickles."""
    if path.is_file():
        refuse_pickle(path)
        raise CheckpointError("this is a file, not a run or checkpoint folder", path=path, fix="name the folder")
    if (path / RUN).exists() or (path / checkpoints.MANIFEST).exists() or path.name.startswith("step_"):
        return path
    found = "this folder is empty" if path.is_dir() and not os.listdir(path) else "this folder holds no run.json"
    for child in sorted(path.iterdir()) if path.is_dir() else []:
        if child.is_file():
            refuse_pickle(child)
    raise CheckpointError(f"{found}: it is no run", path=path, fix="name a run folder; genai runs lists them")


def remove(path: Path) -> None:
    """Deletes a run, but nothing that no run writes. Raises CheckpointError, and BusyError while it trains."""
    path = Path(path)
    if path.is_symlink():
        raise SecurityError("a symbolic link where a run was expected", path=path, fix="name the folder itself")
    _require_run(path)
    with _output_errors(path, fix=_WRITABLE):
        lock = Lock(path / LOCK)
        try:
            foreign = [name for name in os.listdir(path) if name not in _OURS and not _is_temporary(name)]
            if not foreign:
                # One rename, so that a kill leaves no half of a run under its name.
                trash = path.resolve().with_name(f".trash-{path.resolve().name}-{secrets.token_hex(4)}")
                os.rename(path, trash)
                shutil.rmtree(trash)
                return
            _remove_ours(path)
        finally:
            lock.release()


# -- inside ------------------------------------------------------------------------------------------------------------


def _new_path(run: RunConfig, model: str) -> Path | None:
    """Where a run is to be; None for a folder named after the time. Raises ConfigError for a name outside the root."""
    if run.dir is not None:
        return Path(run.dir)
    if run.name is None:
        return None
    parts = run.name.split("/")
    if (
        any(part in ("", ".", "..") or part.startswith((".", "@")) for part in parts)
        or not re.fullmatch(r"[^\x00-\x1f\\]+", run.name)
        or len(os.fsencode(run.name)) > 200
    ):
        raise ConfigError(
            f"run.name is {run.name[:60]!r}, expected a plain name", fix="type run.name=NAME, or run.dir=PATH"
        )
    home = Path(run.root) / model
    if not (home / run.name).resolve().is_relative_to(home.resolve()):
        raise ConfigError(f"run.name={run.name} leads out of {home}", fix="type run.dir=PATH for any folder")
    return home / run.name


def _dated_folder(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in range(1, 10_000):
        path = home / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(f"10,000 runs began within a second in {home}")


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _remove_ours(path: Path) -> None:
    """What a run writes; run.json first, without which it is no run any more."""
    names = [name for name in os.listdir(path) if name in _OURS or _is_temporary(name)]
    for name in sorted(names, key=lambda name: name != RUN):
        child = path / name
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def _undo(path: Path, *, folder: bool = True) -> None:
    with contextlib.suppress(OSError):
        _remove_ours(path)
        if folder:
            path.rmdir()


def _refuse_taken(path: Path) -> None:
    """Raises BusyError where a run is, OutputError where files lie that a run would overwrite. What a run that was
    killed before it began left behind is nobody's."""
    run = path / RUN
    if checkpoints.steps(path / "checkpoints") or has_begun(path):
        fix = f"type {to_resume(path)}, or choose another run.dir"
        raise BusyError("this folder holds a run already", path=path, fix=fix)
    if run.exists():
        return
    for name in sorted(_OURS - {LOCK}):
        found = path / name
        empty = not (os.listdir(found) if found.is_dir() else found.stat().st_size) if found.exists() else True
        if os.path.lexists(found) and not empty:
            raise OutputError("a run would overwrite this", path=found, fix="type run.dir=PATH for another place")


def _require_run(path: Path) -> None:
    if not (path / RUN).exists():
        run_or_checkpoint(path) if path.exists() else None
        raise CheckpointError(
            "there is no run here: run.json is missing", path=path, fix="name a run; genai runs lists them"
        )


def look(path: Path) -> RunFolder:
    """A run as run.json tells of it. Raises CheckpointError."""
    _require_run(path)
    info = read_info(path / RUN)
    if info.status == "running" and not is_held(path / LOCK):
        info = replace(info, status="stopped")  # killed: its last checkpoint is as good as any
    return RunFolder(path, info)


def _plain(value: Any) -> Any:
    """Dataclasses inside as mappings, tuples as lists: as JSON will read it back."""
    if hasattr(value, "__dataclass_fields__"):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@contextlib.contextmanager
def _output_errors(path: Path | None, *, fix: str = "type run.dir=PATH for another place") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space"
        elif error.errno in (errno.ELOOP, errno.EISDIR):
            fix = "remove what lies there"
        raise OutputError(f"the run cannot be written here: {error.strerror or error}", path=where, fix=fix) from error
