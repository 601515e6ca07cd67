"""Checkpoints: folders of safetensors and JSON that are complete or absent, verified before use, and pruned.

A save writes into `.tmp-*`, syncs every file, writes MANIFEST.json (sizes and sha256 of all others) last, syncs, and
renames; so `kill -9` or a loss of power at any instant leaves the last good checkpoint. sha256 finds damage; it does
not prove who wrote a file, so nothing in a checkpoint can name code either. Torch is imported only where tensors are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from genai import documents as plain_documents
from genai import tensorfile
from genai.documents import FileFacts, sync_folder
from genai.errors import CheckpointError, ConfigErrors, NonFiniteError, OutputError, SecurityError, to_resume
from genai.faults import fault
from genai.schema import Natural, Range, plain, read

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
MANIFEST = "MANIFEST.json"
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\.(safetensors|json)")
_STEP_NAME = re.compile(r"step_(\d{8,18})")
_TEMPORARY, _TRASH, _REPLACED = ".tmp-", ".trash-", ".old-"


@dataclass(frozen=True)
class Manifest:
    format: Annotated[int, Range(low=1)]
    run_id: str
    model: str
    step: Natural
    complete: Literal[True]
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file had the size and hash of its manifest when it was opened."""

    path: Path
    step: int
    manifest: Manifest
    sha256: str  # of MANIFEST.json

    def has(self, name: str) -> bool:
        """Whether it holds the tensors "model", "ema" or "optim"."""
        return f"{name}.safetensors" in self.manifest.files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors on the CPU. Raises CheckpointError."""
        return tensorfile.read_tensors(self._file(f"{name}.safetensors"))

    def header(self, name: str) -> tensorfile.Header:
        """Names, dtypes and shapes of the tensors `name`, without torch."""
        return tensorfile.read_header(self._file(f"{name}.safetensors"))

    def json(self, name: str) -> Any:
        """Plain data of "state.json", "config.json" or "spec.json". Raises CheckpointError or SecurityError."""
        path = self._file(name)
        return plain_documents.parse(plain_documents.read_bytes(path), path)

    def _file(self, name: str) -> Path:
        if name not in self.manifest.files:
            raise CheckpointError(
                f"this checkpoint has no {name}", path=self.path, fix="use another checkpoint of the run"
            )
        return self.path / name


def save(
    folder: Path,
    *,
    step: int,
    model: str,
    run_id: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
) -> Checkpoint:
    """Writes `folder`/step_<step> from groups of tensors and documents of plain data; returns when it is on disk.

    Checkpoints of later steps, left by a training that went back, are removed. Raises NonFiniteError for weights that
    are not finite, OutputError (with the last good checkpoint) when the disk does not take it.
    """
    _refuse_non_finite({name: tensors[name] for name in ("model", "ema") if name in tensors})
    encoded = {f"{name}.json": plain_documents.encode(value) for name, value in documents.items()}
    labels = {"format": "pt", "run_id": run_id, "model": model, "step": str(step)}
    name = _step_name(step)
    temporary = folder / f"{_TEMPORARY}{name}-{os.getpid()}-{secrets.token_hex(4)}"
    parts: dict[str, Callable[[], Iterable[bytes | memoryview]]] = {
        f"{key}.safetensors": partial(tensorfile.serialize, group, labels) for key, group in tensors.items()
    }
    parts |= {key: partial(_whole, content) for key, content in encoded.items()}
    if unfit := [key for key in parts if not _FILE_NAME.fullmatch(key)]:
        raise ValueError(f"no name for a file of a checkpoint: {unfit[0]}")
    try:
        _make_folder(folder)
        temporary.mkdir()
        files: dict[str, FileFacts] = {}
        for count, (key, part) in enumerate(parts.items(), 1):
            files[key] = FileFacts(*_write(temporary / key, part()))
            fault(f"save:after_file:{count}")
        manifest = Manifest(FORMAT, run_id, model, step, True, files)
        content = plain_documents.encode(plain(manifest))
        fault("save:before_manifest")
        _write(temporary / MANIFEST, [content])
        sync_folder(temporary)
        fault("save:before_rename")
        _commit(temporary, folder / name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
        raise _output_error(error, folder, needed) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for number, path in _steps(folder):
        if number > step:
            _discard(path)
    return Checkpoint(folder / name, step, manifest, hashlib.sha256(content).hexdigest())


def newest(folder: Path, *, warn: Callable[[str], None] | None, run_id: str | None = None) -> Checkpoint | None:
    """The checkpoint of the highest step that verifies; each damaged one above it is told to `warn`.

    With `warn` None the first damaged one is an error. None only where there is no step_* at all; CheckpointError where
    some exist and none verifies. With `run_id`, one of another run counts as damaged.
    """
    rejected: list[CheckpointError] = []
    for _, path in reversed(_steps(folder)):
        try:
            found = named(path, run_id=run_id)
        except CheckpointError as error:
            if warn is None:
                raise
            rejected.append(error)
            continue
        if warn is not None:
            for bad in rejected:
                warn(f"{bad.path}: {bad.what}; using {found.path.name}")
        return found
    if rejected:
        raise CheckpointError(
            f"no checkpoint can be loaded; the newest: {rejected[0].what}",
            path=rejected[0].path,
            fix="restore one from a copy of the run",
        )
    return None


def named(path: Path, *, run_id: str | None = None) -> Checkpoint:
    """The checkpoint at `path`, verified, also to be of that run. Raises CheckpointError or SecurityError, which name
    the file."""
    path = Path(path)
    if path.is_symlink():
        raise SecurityError("a symbolic link where a checkpoint was expected", path=path, fix="name the folder itself")
    if not path.is_dir():
        tensorfile.refuse_pickle(path)
        found = "this is a file, no checkpoint folder" if path.exists() else "there is no such checkpoint"
        raise CheckpointError(found, path=path, fix="name a folder step_* of a run")
    content = plain_documents.read_bytes(path / MANIFEST) if (path / MANIFEST).exists() else None
    try:
        present = {entry.name: entry for entry in os.scandir(path)}
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error
    for entry in present.values():
        if entry.is_symlink():
            raise SecurityError("a symbolic link in a checkpoint", path=entry.path, fix="put the file itself there")
    if content is None:
        _refuse_hostile(path, present)
        raise CheckpointError(
            "MANIFEST.json is missing: the checkpoint is not complete", path=path, fix="use another one"
        )
    manifest = _read_manifest(content, path / MANIFEST)
    if path.name.startswith("step_") and path.name != _step_name(manifest.step):
        raise CheckpointError(f"this is the manifest of {_step_name(manifest.step)}", path=path / MANIFEST)
    if run_id not in (None, manifest.run_id):
        fix = "move it out of this run; a new run can start from it by model.init_from=PATH"
        raise CheckpointError("this checkpoint is another run's", path=path, fix=fix)
    unexpected = {name for name in present.keys() - manifest.files.keys() - {MANIFEST} if not _is_litter(name)}
    for name in sorted(unexpected):
        tensorfile.refuse_pickle(path / name)
        raise CheckpointError("a file that the checkpoint does not name", path=path / name, fix="move it elsewhere")
    for name, facts in manifest.files.items():
        if name not in present or not present[name].is_file(follow_symlinks=False):
            raise CheckpointError("a file is missing", path=path / name, fix="use another checkpoint of the run")
        size = present[name].stat(follow_symlinks=False).st_size
        if size != facts.bytes:
            _refuse_hostile(path, {name: present[name]})
            raise _changed(path / name, f"{size:,} bytes, expected {facts.bytes:,}")
    _verify_contents(path, manifest)
    return Checkpoint(path, manifest.step, manifest, hashlib.sha256(content).hexdigest())


def prune(folder: Path, *, keep: int, protect: Collection[int]) -> None:
    """Removes all checkpoints but the `keep` newest and the steps of `protect`; never the newest.

    What cannot be removed stays: it is in nobody's way until the disk is full, which a save reports.
    """
    steps = _steps(folder)
    kept = {number for number, _ in steps[-max(1, keep) :]} | set(protect)
    for number, path in steps:
        if number >= 0 and number not in kept:
            _discard(path)


def sweep(folder: Path) -> None:
    """Clears what a kill left; a checkpoint that was being replaced comes back. Only for the holder of the lock."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(_REPLACED):
            original = folder / path.name.removeprefix(_REPLACED).rsplit("-", 1)[0]
            if not original.exists():
                os.rename(path, original)
                continue
        if path.name.startswith((_TEMPORARY, _TRASH, _REPLACED)):
            shutil.rmtree(path, ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, lowest first; nothing is verified."""
    return [number for number, _ in _steps(folder) if number >= 0]


def load_weights(module: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    """Copies the tensors "model" or "ema" into a module. Raises CheckpointError with what differs."""
    stored, own = checkpoint.tensors(name), module.state_dict()
    differences = [f"missing {key}" for key in own if key not in stored]
    differences += [f"unexpected {key}" for key in stored if key not in own]
    differences += [
        f"{key}: checkpoint {list(stored[key].shape)}, model {list(tensor.shape)}"
        for key, tensor in own.items()
        if key in stored and stored[key].shape != tensor.shape
    ]
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise CheckpointError(
            f"the checkpoint does not fit the model: {shown}",
            path=checkpoint.path / f"{name}.safetensors",
            fix="use the model and net settings of its config.json",
        )
    module.load_state_dict(stored)


def load_fitting(module: nn.Module, checkpoint: Checkpoint, name: str) -> list[str]:
    """Copies those of the tensors "model" or "ema" into a module that fit it, as where data of other classes are
    learned; the names of those that keep what they have. Raises CheckpointError where most of what is learned does."""
    stored, own = checkpoint.tensors(name), module.state_dict()
    fitting = {key: t for key, t in stored.items() if key in own and own[key].shape == t.shape}
    learned = {key: parameter.numel() for key, parameter in module.named_parameters()}
    if 2 * sum(count for key, count in learned.items() if key in fitting) < sum(learned.values()):
        load_weights(module, checkpoint, name)
    module.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


# -- inside ------------------------------------------------------------------------------------------------------------


def _step_name(step: int) -> str:
    return f"step_{step:08d}"


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of all that is called step_*, in numeric order; -1 for names that no save gives."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith("step_")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=folder) from error
    numbers = {name: int(m[1]) if (m := _STEP_NAME.fullmatch(name)) else -1 for name in names}
    return sorted((number, folder / name) for name, number in numbers.items())


def _is_litter(name: str) -> bool:
    """What file managers leave in folders that they show."""
    return name.startswith("._") or name in (".DS_Store", "Thumbs.db", "desktop.ini")


def _read_manifest(content: bytes, path: Path) -> Manifest:
    data = plain_documents.parse(content, path)
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(f"written in format {version} by a newer genai; this one reads up to {FORMAT}", path=path,
                              fix="type pip install -U genai-trainer")  # fmt: skip
    try:
        manifest = read(Manifest, data)
    except ConfigErrors as error:
        raise CheckpointError(
            f"damaged manifest: {error.mistakes[0].what}", path=path, fix="use another one"
        ) from error
    for name in manifest.files:
        if name.startswith(("/", ".", "~")) or ".." in name or "\0" in name:
            raise SecurityError(f"the manifest names {name[:80]!r}, outside its folder", path=path)
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(f"the manifest names {name[:80]!r}, which no checkpoint holds", path=path)
    return manifest


def _verify_contents(path: Path, manifest: Manifest) -> None:
    """Hashes of all files, several at a time, then the headers of those with tensors."""
    names = list(manifest.files)
    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            hashes = list(pool.map(tensorfile.hash_file, (path / name for name in names)))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=error.filename or path) from error
    for name, found in zip(names, hashes, strict=True):
        if found != manifest.files[name].sha256:
            _refuse_hostile(path, [name])
            raise _changed(path / name, "sha256 mismatch")
    labels = {"run_id": manifest.run_id, "model": manifest.model, "step": str(manifest.step)}
    for name in names:
        if name.endswith(".safetensors"):
            metadata = tensorfile.read_header(path / name).metadata
            if any(metadata.get(key, value) != value for key, value in labels.items()):
                raise _changed(path / MANIFEST, f"its run, model or step is not that of {name}")


def _refuse_hostile(folder: Path, names: Iterable[str]) -> None:
    """Tells an attack from damage: SecurityError for pickles and for documents that name code."""
    for name in names:
        tensorfile.refuse_pickle(folder / name)
        if name.endswith(".json"):
            with contextlib.suppress(CheckpointError):
                plain_documents.parse(plain_documents.read_bytes(folder / name), folder / name)


def _changed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, path=path, fix="use another checkpoint of the run, or restore it from a copy")


def _refuse_non_finite(groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises NonFiniteError with the first weight that holds a NaN or an infinity: one sync for each group."""
    import torch

    for group, tensors in groups.items():
        weights = {k: t.detach() for k, t in tensors.items() if (t.is_floating_point() or t.is_complex()) and t.numel()}
        if not weights:
            continue
        finite = torch.stack([_is_finite(t) for t in weights.values()])
        if not bool(finite.all()):
            bad = list(weights)[int((~finite).nonzero()[0])]
            raise NonFiniteError(f"'{bad}' of {group} is not finite; no checkpoint was written", fix="lower optim.lr")


def _is_finite(tensor: Tensor) -> Tensor:
    """A scalar on the tensor's device. Its extremes tell all: NaN spreads to both, an infinity is one of them."""
    import torch

    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.element_size() == 1:  # fp8 has no extremes
        tensor = tensor.float()
    return torch.isfinite(torch.stack(torch.aminmax(tensor))).all()


def _whole(content: bytes) -> list[bytes | memoryview]:
    return [content]


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    try:
        fault("save")
        return tensorfile.write(path, parts)
    except OSError as error:
        error.filename = path.name
        raise


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def _commit(temporary: Path, final: Path) -> None:
    replaced = None
    if os.path.lexists(final):
        # Two renames cannot be one; `sweep` takes the first back if the second never happens.
        replaced = final.with_name(f"{_REPLACED}{final.name}-{secrets.token_hex(4)}")
        os.rename(final, replaced)
        fault("save:before_replace")
    os.rename(temporary, final)
    sync_folder(final.parent)
    fault("save:after_rename")
    if replaced is not None:
        _remove(replaced)


def _discard(path: Path) -> None:
    """Removal that a kill cannot leave half done under the checkpoint's name."""
    trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        os.rename(path, trash)
        fault("save:prune")
        _remove(trash)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _output_error(error: OSError, folder: Path, needed: int) -> OutputError:
    try:
        last = newest(folder, warn=lambda message: None)
    except (CheckpointError, SecurityError):
        last = None
    good = f"last good: {last.path.name}" if last is not None else "there is no checkpoint yet"
    where = folder / error.filename if isinstance(error.filename, str) else folder
    go_on = f", then type {to_resume(folder.parent)}" if last is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
        except OSError:
            free = ""
        return OutputError(f"no space left for a checkpoint (needs {needed / 1e6:,.1f} MB{free}); {good}", path=where,
                           fix=f"free some space{go_on}")  # fmt: skip
    fix = "raise the limit of ulimit -f" if error.errno == errno.EFBIG else "make the folder writable"
    what = f"a checkpoint cannot be written (needs {needed / 1e6:,.1f} MB): {error.strerror}; {good}"
    return OutputError(what, path=where, fix=f"{fix}{go_on}")
