"""A changed, missing or hostile file is never loaded, and the error names it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genai import checkpoint as checkpoints
from genai import documents, tensorfile
from genai.checkpoint import Checkpoint
from genai.errors import CheckpointError, GenaiError, SecurityError
from small_checkpoint import save

FILES = [
    "MANIFEST.json",
    "config.json",
    "ema.safetensors",
    "model.safetensors",
    "optim.safetensors",
    "spec.json",
    "state.json",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good checkpoints; whoever damages one puts it back."""
    folder = tmp_path_factory.mktemp("pair")
    save(folder, 20)
    save(folder, 40)
    return folder


def damage(path: Path, operation: str, where: float) -> None:
    content = bytearray(path.read_bytes())
    at = min(int(where * len(content)), len(content) - 1)
    if operation == "delete":
        path.unlink()
        return
    if operation == "truncate":
        content = content[:at]
    elif operation == "append":
        content += bytes([at % 256])
    elif operation == "garbage":
        content[:] = b"{" * len(content)
    else:
        content[at] ^= 1 << int(operation[-1])
    path.write_bytes(content)


OPERATIONS = ["truncate", "append", "delete", "garbage", *(f"flip{bit}" for bit in range(8))]


@settings(max_examples=250, deadline=None)
@example(name="MANIFEST.json", operation="flip0", where=0.07421875)  # another step
@given(name=st.sampled_from(FILES), operation=st.sampled_from(OPERATIONS), where=st.floats(0, 1))
def test_any_damage_to_any_file_is_found_and_the_older_checkpoint_taken(
    pair: Path, name: str, operation: str, where: float
) -> None:
    path = pair / "step_00000040" / name
    before = path.read_bytes()
    try:
        damage(path, operation, where)
        told: list[str] = []
        if operation == "append" and name == "MANIFEST.json" and path.read_bytes()[-1:].isspace():
            return  # JSON with a space at its end is the same manifest
        if name == "MANIFEST.json" and operation == "flip6" and b'"/' in path.read_bytes():
            return  # a name outside the folder is not taken for damage
        found = checkpoints.newest(pair, warn=told.append)
        assert found is not None
        assert found.step == 20
        assert len(told) == 1
        assert told[0].startswith(str(pair / "step_00000040"))
        assert told[0].endswith("; using step_00000020")
        with pytest.raises(CheckpointError) as caught:
            checkpoints.named(path.parent)
        named = [name] if name != "MANIFEST.json" else FILES  # a manifest may be wrong about any file
        assert any(str(path.with_name(file)) in str(caught.value) for file in named) or operation == "delete"
        with pytest.raises(CheckpointError):
            checkpoints.newest(pair, warn=None)
    finally:
        path.write_bytes(before)


def test_undamaged_checkpoints_are_taken_without_a_word(pair: Path) -> None:
    told: list[str] = []
    found = checkpoints.newest(pair, warn=told.append)
    assert found is not None
    assert (found.step, told) == (40, [])


def test_if_none_verifies_it_is_an_error_and_never_a_new_start(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path, warn=None) is None
    assert checkpoints.newest(tmp_path / "absent", warn=None) is None
    for step in (1, 2):
        save(tmp_path, step)
        (tmp_path / f"step_{step:08d}" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint can be loaded"):
        checkpoints.newest(tmp_path, warn=lambda message: None)


def test_a_name_that_is_not_its_step_is_damage(tmp_path: Path) -> None:
    for other in ("step_00000009", "step_5", "step_x"):
        save(tmp_path, 5)
        os.rename(tmp_path / "step_00000005", tmp_path / other)
        with pytest.raises(CheckpointError):
            checkpoints.newest(tmp_path, warn=lambda message: None)
        shutil.rmtree(tmp_path / other)


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    save(tmp_path, 1, run_id="mine")
    save(tmp_path, 2, run_id="another")
    told: list[str] = []
    found = checkpoints.newest(tmp_path, warn=told.append, run_id="mine")
    assert found is not None
    assert found.step == 1
    assert "another run's" in told[0]
    with pytest.raises(CheckpointError, match="another run's"):
        checkpoints.newest(tmp_path, warn=None, run_id="mine")


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    (saved.path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        checkpoints.named(saved.path)


def test_a_newer_format_says_what_to_install(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    rewrite_manifest(saved, format=2)
    with pytest.raises(CheckpointError, match="newer genai"):
        checkpoints.named(saved.path)


@pytest.mark.parametrize("change", [{"run_id": "other"}, {"model": "other"}, {"complete": False}, {"surplus": 1}])
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    saved = save(tmp_path, 1)
    rewrite_manifest(saved, **change)
    with pytest.raises(CheckpointError):
        checkpoints.named(saved.path)


# -- hostile files: whoever made them had the hashes right -------------------------------------------------------------


def rewrite_manifest(saved: Checkpoint, **changes: Any) -> None:
    path = saved.path / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def replace_file(saved: Checkpoint, name: str, content: bytes) -> None:
    """Replaces a file with a manifest that vouches for it."""
    (saved.path / name).write_bytes(content)
    files = json.loads((saved.path / "MANIFEST.json").read_bytes())["files"]
    files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(saved, files=files)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


def pickles(canary: Path, tmp_path: Path) -> list[bytes]:
    torch.save({"w": Bomb(canary)}, tmp_path / "torch.bin")
    content = (tmp_path / "torch.bin").read_bytes()
    assert zipfile.is_zipfile(tmp_path / "torch.bin")
    return [content, *(pickle.dumps({"w": Bomb(canary)}, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))]


@pytest.mark.parametrize("vouched", [True, False])
def test_a_pickle_named_safetensors_is_refused_unread(tmp_path: Path, vouched: bool) -> None:
    canary = tmp_path / "PWNED"
    for content in pickles(canary, tmp_path):
        saved = save(tmp_path / "c", 1)
        if vouched:
            replace_file(saved, "model.safetensors", content)
        else:
            (saved.path / "model.safetensors").write_bytes(content)
        with pytest.raises(SecurityError, match="pickle checkpoints are not loaded"):
            checkpoints.newest(tmp_path / "c", warn=lambda message: None)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", ".metadata", "optimizer.bin"])
def test_pickles_by_name_are_refused(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "PWNED"
    saved = save(tmp_path, 1)
    (saved.path / name).write_bytes(pickle.dumps(Bomb(canary)))
    for path in (saved.path, saved.path / name):
        with pytest.raises(SecurityError, match="pickle"):
            checkpoints.named(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "evil",
    [
        {"_target_": "os.system", "command": "touch PWNED"},
        {"model": {"layers": [1, {"_target_": "numpy.f2py.crackfortran.myeval"}]}},
        {"model": {"name": "${oc.env:HOME}"}},
        {"${oc.env:HOME}": 1},
        {"list": [["x", "a ${now:%Y} b"]]},
    ],
)
@pytest.mark.parametrize("vouched", [True, False])
def test_documents_that_name_code_or_ask_for_secrets_are_refused(tmp_path: Path, evil: Any, vouched: bool) -> None:
    saved = save(tmp_path, 1)
    content = json.dumps(evil).encode()
    if vouched:
        replace_file(saved, "config.json", content)
        opened = checkpoints.named(saved.path)
        with pytest.raises(SecurityError) as caught:
            opened.json("config.json")
    else:
        (saved.path / "config.json").write_bytes(content)
        with pytest.raises(SecurityError) as caught:
            checkpoints.named(saved.path)
    assert os.environ["HOME"] not in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("name", ["../../outside.json", "/etc/passwd", "..", "a/../b.json", "a\u0000.json", ".x.json"])
def test_names_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.json").write_text("{}")
    saved = save(tmp_path / "run" / "checkpoints", 1)
    facts = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    rewrite_manifest(saved, files={name: facts})
    with pytest.raises(SecurityError):
        checkpoints.named(saved.path)


@pytest.mark.parametrize("name", ["a/b.json", "x.pt", "n" * 4096 + ".json", "MANIFEST.json", ""])
def test_names_that_no_save_gives_are_refused(tmp_path: Path, name: str) -> None:
    saved = save(tmp_path, 1)
    rewrite_manifest(saved, files={name: {"bytes": 2, "sha256": "0"}})
    with pytest.raises(CheckpointError, match="no checkpoint holds"):
        checkpoints.named(saved.path)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    outside = save(tmp_path / "elsewhere", 3)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "step_00000003").symlink_to(outside.path)
    with pytest.raises(SecurityError, match="symbolic link"):
        checkpoints.newest(tmp_path / "c", warn=lambda message: None)
    for name in ("model.safetensors", "MANIFEST.json"):
        saved = save(tmp_path / "d", 3)
        (saved.path / name).unlink()
        (saved.path / name).symlink_to(outside.path / name)
        with pytest.raises(SecurityError, match="symbolic link"):
            checkpoints.named(saved.path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"1" * 10_000,
        b'{"a": 1, "a": 2}',
        b"NaN",
        b"\xff\xfe",
        b"",
    ],
)
def test_json_bombs_are_checkpoint_errors(tmp_path: Path, content: bytes) -> None:
    saved = save(tmp_path, 1)
    replace_file(saved, "state.json", content)
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoints.named(saved.path).json("state.json")
    assert time.perf_counter() - began < 2


def test_a_document_too_large_to_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1000)
    saved = save(tmp_path, 1)
    replace_file(saved, "state.json", b'"' + b"x" * 1000 + b'"')
    with pytest.raises(CheckpointError, match="larger than"):
        checkpoints.named(saved.path).json("state.json")


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


F32 = {"dtype": "F32", "shape": [1]}
HEADERS = {
    "header of 10^9 bytes": with_header(one(), b"x" * 8, 10**9),
    "header of 2^63 bytes": with_header(one(), b"x" * 8, 2**63),
    "header of 100 MB": with_header(b'{"a":"' + b" " * (100 << 20) + b'"}'),
    "overlapping tensors": with_header(
        {"a": {**F32, "data_offsets": [0, 4]}, "b": {**F32, "data_offsets": [2, 6]}}, b"x" * 6
    ),
    "a gap": with_header({"a": {**F32, "data_offsets": [0, 4]}, "b": {**F32, "data_offsets": [8, 12]}}, b"x" * 12),
    "a name twice": with_header(
        b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b"xx",
    ),
    "dtype that lies": with_header(one(dtype="F64"), b"x" * 8),
    "unknown dtype": with_header(one(dtype="OBJ"), b"x" * 8),
    "dtype that is a list": with_header(one(dtype=["F32"]), b"x" * 8),
    "negative shape": with_header(one(shape=[-2, -1]), b"x" * 8),
    "huge shape": with_header(one(shape=[2**62, 2**62, 0], data_offsets=[0, 0])),
    "shape of booleans": with_header(one(shape=[True], data_offsets=[0, 4]), b"x" * 4),
    "beyond the end": with_header(one(), b"x" * 7),
    "bytes left over": with_header(one(), b"x" * 9),
    "offsets reversed": with_header(one(shape=[0], data_offsets=[8, 0]), b"x" * 8),
    "nested": with_header(b'{"w":' + b"[" * 200_000),
    "metadata that is no text": with_header({"__metadata__": {"a": 1}, **one()}, b"x" * 8),
    "a list": with_header([1]),
    "10^6 tensors": with_header(
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(300_000)) + b"}"
    ),
    "nothing": b"",
    "eight bytes": b"\x10" + b"\x00" * 7,
}


@pytest.mark.parametrize("bomb", HEADERS)
def test_header_bombs_are_errors_that_cost_little(tmp_path: Path, bomb: str) -> None:
    saved = save(tmp_path, 1)
    replace_file(saved, "model.safetensors", HEADERS[bomb])
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoints.named(saved.path)
    assert time.perf_counter() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "w"]), inner, max_size=3)
    ),
    max_leaves=12,
)
offsets = st.lists(st.integers(-1, 20), min_size=2, max_size=2)
shapes = st.lists(st.integers(-1, 9), max_size=3)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BOOL", "F9"]), "shape": shapes, "data_offsets": offsets}
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(st.text(max_size=3), entries | plain_json, max_size=3) | st.binary(max_size=60) | plain_json,
    size=st.integers(0, 24),
)
def test_any_header_reads_or_is_a_named_error(tmp_path_factory: pytest.TempPathFactory, header: Any, size: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(with_header(header, b"\x01" * size))
    refusal = None
    try:
        tensors = tensorfile.read_tensors(path)
    except GenaiError as error:
        refusal = error
    if refusal is None:
        assert sum(t.numel() * t.element_size() for t in tensors.values()) == size
    else:
        assert (refusal.exit_code in (4, 9), refusal.path) == (True, path)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=80) | plain_json.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_a_named_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz" / "step_00000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MANIFEST.json").write_bytes(content)
    with pytest.raises((CheckpointError, SecurityError)):
        checkpoints.named(folder)
