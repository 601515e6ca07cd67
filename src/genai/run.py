"""The folder of one training run: its lock, run.json, settings, metrics and log; and how runs are found. No torch."""

from __future__ import annotations

import contextlib
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
from typing import Any, Literal

from genai import checkpoint as checkpoints
from genai import documents
from genai.documents import write_atomically
from genai.errors import BusyError, CheckpointError, ConfigError, ConfigErrors, OutputError, SecurityError
from genai.lock import Lock, is_held
from genai.metrics_file import MetricsFile
from genai.run_info import Best, RunInfo, encode_info, read_info
from genai.schema import HIGHER_IS_BETTER, RunConfig, plain, read
from genai.tensorfile import refuse_pickle

__all__ = ["Best", "RunFolder", "RunInfo", "all_runs", "find", "remove", "write_atomically"]

RUN, METRICS, LOG, LOCK = "run.json", "metrics.jsonl", "log.txt", ".lock"
DOCUMENTS = ("config.json", "spec.json")
_OURS = {RUN, METRICS, LOG, LOCK, *DOCUMENTS, "checkpoints", "previews", "samples", "eval", "codec"}
_POSITION = ("step", "samples", "seconds")


class RunFolder:
    """A run folder. Made by `create` or `reopen`, which hold its lock until `close`, or by `read`, which takes none.

    A full disk never ends a training by way of its log, metrics or run.json: `warn` is told once, and writing is tried
    again later.
    """

    def __init__(self, path: Path, info: RunInfo, lock: Lock | None = None) -> None:
        self.path, self.info, self._lock = path, info, lock
        self.warn: Callable[[str], None] = lambda message: print(f"warning: {message}", file=sys.stderr)
        self._metrics = MetricsFile(path / METRICS)
        self._warned: set[str] = set()

    # -- opening and closing -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, run: RunConfig, *, model: str) -> RunFolder:
        """A new, locked run folder. Raises BusyError where a run is, OutputError, and ConfigError for a bad name."""
        path = _new_path(run, model)
        with _output_errors(path):
            if path is None:
                path = _dated_folder(Path(run.root) / model)
            else:
                path.mkdir(parents=True, exist_ok=True)
            lock = Lock(path / LOCK)
        try:
            if (path / RUN).exists() or checkpoints.steps(path / "checkpoints"):
                raise BusyError(
                    "this folder holds a run already",
                    path=path,
                    fix=f"type genai resume {path}, or choose another run.dir",
                )
            info = RunInfo(
                id=uuid.uuid4().hex,
                status="running",
                model=model,
                name=path.name,
                created=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
            made = cls(path, info, lock)
            with _output_errors(path):
                made.checkpoints.mkdir(exist_ok=True)
                (path / METRICS).write_bytes(b"")
                # Last, since it is what makes a folder a run: a kill before it leaves a folder that can be taken again.
                write_atomically(path / RUN, encode_info(info))
                documents.sync_folder(path.parent)
        except BaseException:
            lock.release()
            raise
        return made

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """A run to go on with: locked, cleared of what a kill left. Raises CheckpointError, BusyError, OutputError."""
        path = Path(path)
        _require_run(path)
        with _output_errors(path):
            lock = Lock(path / LOCK)
        try:
            with _output_errors(path):
                checkpoints.sweep(path / "checkpoints")
            made = cls(path, read_info(path / RUN), lock)
            made._require_checkpoint()
            made._metrics.require()
            made.update(status="running", error=None)
        except BaseException:
            lock.release()
            raise
        return made

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """A run to look at or sample from. Raises CheckpointError where something of it is missing or changed."""
        made = _look(Path(path))
        made._require_checkpoint()
        return made

    def refresh(self) -> None:
        """Takes up what another process of the same job wrote into run.json."""
        self.info = read_info(self.path / RUN)

    def close(self, status: Literal["finished", "stopped", "failed"] | None = None, error: str | None = None) -> None:
        """Writes what is pending, with a last status if one is given, and releases the lock."""
        if status is not None:
            self.update(status=status, error=error)
        self._tell(self._metrics.close())
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
            self._tell(f"cannot write {self.path / RUN}: {error.strerror}; training goes on")

    def _write_info(self) -> None:
        write_atomically(self.path / RUN, encode_info(self.info))

    def saved(self, checkpoint: str, best_step: int | None, best_value: float | None, metric: str | None) -> None:
        """Notes the newest checkpoint, by its folder's name, and the best so far."""
        best = self.info.best
        if best_step is not None and best_value is not None and metric is not None:
            best = Best(best_step, best_value, metric)
        self.update(checkpoint=checkpoint, best=best)

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

    def check_document(self, name: str) -> None:
        """Raises CheckpointError where config.json or spec.json is missing or changed."""
        self.document(name)

    # -- metrics and log -----------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, written at once; what is not finite becomes null."""
        values = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._tell(self._metrics.append(values))
        self._note_metrics(values)

    def flush_metrics(self) -> None:
        """Metrics on disk, such that a checkpoint written next is never ahead of them."""
        self._tell(self._metrics.sync())

    def truncate_metrics(self, step: int) -> None:
        """Drops what was logged after `step`. Raises CheckpointError for a damaged line before it, and OutputError."""
        with _output_errors(self.path / METRICS):
            kept = self._metrics.truncate(step)
        self.info = replace(self.info, metrics={}, steps=step)
        for values in kept:
            self._note_metrics(values)

    def metrics(self) -> list[dict[str, float | None]]:
        """All lines; a half last line, the sign of a kill, is left out. Raises CheckpointError for a damaged one."""
        return self._metrics.read()

    def log(self, text: str) -> None:
        """A line with its time at the end of log.txt."""
        try:
            with open(self.path / LOG, "a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text.rstrip()}\n")
        except OSError as error:
            self._tell(f"cannot write {self.path / LOG}: {error.strerror}; training goes on")

    def _note_metrics(self, values: Mapping[str, float | None]) -> None:
        metrics = {**self.info.metrics, **{k: v for k, v in values.items() if k not in _POSITION}}
        steps, samples = int(values.get("step") or self.info.steps), int(values.get("samples") or self.info.samples)
        seconds = float(values.get("seconds") or self.info.seconds)
        self.info = replace(self.info, metrics=metrics, steps=steps, samples=samples, seconds=seconds)

    def _tell(self, trouble: str | None) -> None:
        if trouble is not None and trouble not in self._warned:
            self._warned.add(trouble)
            self.warn(trouble)

    # -- folders -------------------------------------------------------------------------------------------------------

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
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def codec(self) -> Path:
        return self.path / "codec"

    def _require_checkpoint(self) -> None:
        """The newest checkpoint that run.json names, or a later one that a kill kept from being noted, is there."""
        if self.info.checkpoint is None:
            return
        if max(checkpoints.steps(self.checkpoints), default=-1) < int(self.info.checkpoint.removeprefix("step_")):
            path = self.checkpoints / self.info.checkpoint
            raise CheckpointError(
                "the checkpoint that run.json names is missing", path=path, fix="restore it from a copy"
            )


# -- finding runs ------------------------------------------------------------------------------------------------------


def find(reference: str | None, root: Path) -> Path:
    """The run or checkpoint folder that `reference` names.

    A path, @last (the default: the newest run that finished or stopped), @best:METRIC, or a part of a name that only
    one run under `root` has. Raises CheckpointError, with what there is.
    """
    if reference is None or reference == "@last":
        ended = [run for run in all_runs(root) if run.info.status in ("finished", "stopped")]
        if not ended:
            raise CheckpointError(
                "no run has finished or stopped here", path=root, fix="name a run, or type genai train MODEL"
            )
        return ended[-1].path
    if reference.startswith("@best:"):
        return _best(reference.removeprefix("@best:"), root)
    path = Path(reference)
    if os.path.lexists(path):
        return _run_or_checkpoint(path)
    runs = all_runs(root)
    names = {run.path: f"{run.info.model}/{run.path.relative_to(root).as_posix()}" for run in runs}
    exact = [run.path for run in runs if reference in (run.path.name, run.path.relative_to(root).as_posix())]
    matches = exact or [path for path, name in names.items() if reference.strip("/") in name]
    if len(matches) == 1:
        return matches[0]
    shown = ", ".join(str(path) for path in (matches or [run.path for run in runs])[-8:])
    if matches:
        raise CheckpointError(f"'{reference}' is part of {len(matches)} names", fix=f"choose one of: {shown}")
    raise CheckpointError(
        f"there is no run '{reference}'", fix=f"choose one of: {shown}" if shown else "name a run folder"
    )


def all_runs(root: Path) -> list[RunFolder]:
    """Every run under `root`, oldest first. One whose run.json is damaged counts as failed, with the reason."""
    runs = []
    for folder, children, files in os.walk(root):
        if RUN in files:
            path = Path(folder)
            try:
                runs.append(_look(path))
            except (CheckpointError, SecurityError) as error:
                info = RunInfo(
                    id="", status="failed", model=path.parent.name, name=path.name, created="", error=str(error)
                )
                runs.append(RunFolder(path, info))
            children.clear()
        children[:] = sorted(child for child in children if not child.startswith("."))
    return sorted(runs, key=lambda run: run.info.created)


def remove(path: Path) -> None:
    """Deletes a run, but nothing that no run writes. Raises CheckpointError, and BusyError while it trains."""
    path = Path(path)
    if path.is_symlink():
        raise SecurityError("a symbolic link where a run was expected", path=path, fix="name the folder itself")
    _require_run(path)
    with _output_errors(path):
        lock = Lock(path / LOCK)
        try:
            foreign = [name for name in os.listdir(path) if name not in _OURS and not _is_temporary(name)]
            if not foreign:
                # One rename, so that a kill leaves no half of a run under its name.
                trash = path.resolve().with_name(f".trash-{path.resolve().name}-{secrets.token_hex(4)}")
                os.rename(path, trash)
                shutil.rmtree(trash)
                return
            for name in sorted(_OURS & set(os.listdir(path)), key=lambda name: name != RUN):
                child = path / name
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        finally:
            lock.release()


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _best(metric: str, root: Path) -> Path:
    figures = {run.path: value for run in all_runs(root) if (value := _figure(run, metric)) is not None}
    if not figures:
        known = sorted(
            {key.removeprefix("valid/") for run in all_runs(root) for key in run.info.metrics if "valid/" in key}
        )
        raise CheckpointError(
            f"no run measured '{metric}'",
            path=root,
            fix=f"choose one of: {', '.join(known)}" if known else "type genai eval RUN",
        )
    choose = max if metric.rsplit("/", 1)[-1] in HIGHER_IS_BETTER else min
    return choose(figures, key=lambda path: figures[path])


def _figure(run: RunFolder, metric: str) -> float | None:
    """A run's figure for a metric: its best checkpoint's, else what `genai eval` wrote, else the last logged."""
    best = run.info.best
    if best is not None and best.metric in (metric, metric.removeprefix("valid/")):
        return best.value
    for path in sorted((run.path / "eval").glob("*.json")):
        with contextlib.suppress(CheckpointError, SecurityError):
            measured = documents.parse(documents.read_bytes(path), path)
            value = measured.get(metric) if isinstance(measured, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
    return run.info.metrics.get(metric, run.info.metrics.get(f"valid/{metric}"))


def _run_or_checkpoint(path: Path) -> Path:
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


def _require_run(path: Path) -> None:
    if not (path / RUN).exists():
        _run_or_checkpoint(path) if path.exists() else None
        raise CheckpointError(
            "there is no run here: run.json is missing", path=path, fix="name a run; genai runs lists them"
        )


def _look(path: Path) -> RunFolder:
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
def _output_errors(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise OutputError(
            f"the run cannot be written here: {error.strerror or error}",
            path=where,
            fix="type run.dir=PATH for another place",
        ) from error
