"""What a run folder holds is checked when it is read; metrics are whole again after kills and full disks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.errors import CheckpointError, OutputError, SecurityError
from genai.lock import is_held
from genai.run import RunFolder
from genai.run_index import all_runs
from small_checkpoint import save
from small_run import create, finished, in_a_fork

# -- damage ------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["run.json", "config.json", "spec.json"]),
    operation=st.sampled_from(["truncate", "append", "flip", "delete"]),
    where=st.floats(0, 1),
    bit=st.integers(0, 7),
)
def test_any_change_to_a_document_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, operation: str, where: float, bit: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "documents"
    path = (all_runs(root)[0] if root.exists() else finished(root, "one")).path
    file = path / name
    before = file.read_bytes()
    content = bytearray(before)
    at = min(int(where * len(content)), len(content) - 1)
    if operation == "truncate":
        content = content[:at]
    elif operation == "append":
        content += b"x"
    else:
        content[at] ^= 1 << bit
    try:
        file.unlink() if operation == "delete" else file.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            RunFolder.read(path).document(name if name != "run.json" else "config.json")
        assert name in str(caught.value)
    finally:
        file.write_bytes(before)
    RunFolder.read(path).document("config.json")  # the control: it was whole


def test_a_missing_checkpoint_or_metrics_file_is_found(tmp_path: Path) -> None:
    run = finished(tmp_path, "one")
    (run.path / "metrics.jsonl").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
        RunFolder.reopen(run.path)
    (tmp_path / "kept").rename(run.path / "metrics.jsonl")
    (run.checkpoints / "step_00000002").rename(tmp_path / "kept")
    for opening in (RunFolder.read, RunFolder.reopen):
        with pytest.raises(CheckpointError, match="step_00000002"):
            opening(run.path)
    assert not is_held(run.path / ".lock")  # a failed opening holds nothing
    save(run.checkpoints, 3, run_id=run.id)  # a kill between saving and noting it is no damage
    assert RunFolder.read(run.path).info.checkpoint == "step_00000002"


def test_a_run_is_neither_read_nor_written_through_a_link(tmp_path: Path) -> None:
    path = finished(tmp_path, "one").path
    (tmp_path / "log").write_text("mine\n")
    (path / "log.txt").symlink_to(tmp_path / "log")
    run = RunFolder.reopen(path)
    run.warn = lambda message: None
    run.log("a line")
    run.close()
    assert (tmp_path / "log").read_text() == "mine\n"
    (path / "metrics.jsonl").rename(tmp_path / "metrics")
    (path / "metrics.jsonl").symlink_to(tmp_path / "metrics")
    for opening in (RunFolder.read, RunFolder.reopen):
        with pytest.raises(SecurityError, match=r"metrics\.jsonl"):
            opening(path)


@pytest.mark.parametrize("name", ["run.json", "config.json", "metrics.jsonl"])
def test_a_folder_in_place_of_a_file_is_damage(tmp_path: Path, name: str) -> None:
    path = finished(tmp_path, "one").path
    (path / name).unlink()
    (path / name).mkdir()
    for opening in (RunFolder.read, RunFolder.reopen):
        with pytest.raises(CheckpointError):
            opening(path)


@pytest.mark.parametrize("name", ["run.json", "config.json", "spec.json"])
@pytest.mark.parametrize("evil", [{"_target_": "os.system"}, {"a": [{"b": "${oc.env:HOME}"}]}])
def test_documents_that_name_code_are_refused(tmp_path: Path, name: str, evil: Any) -> None:
    run = finished(tmp_path, "one")
    file = run.path / name
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **evil}))
    with pytest.raises(SecurityError, match=name):
        RunFolder.read(run.path).document(name if name != "run.json" else "config.json")


def test_a_kill_while_a_document_is_replaced_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = os.replace
    for fatal in range(1, 4):
        run = finished(tmp_path, f"run{fatal}")

        def change(run: RunFolder = run, fatal: int = fatal) -> None:
            count = [0]

            def replace_or_die(a: Any, b: Any) -> None:
                count[0] += 1
                if count[0] == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                replaced(a, b)

            monkeypatch.setattr(os, "replace", replace_or_die)
            run.write_document("config.json", {"model": {"name": "changed"}})

        assert in_a_fork(change) == -signal.SIGKILL
        found = RunFolder.read(run.path).document("config.json")["model"]["name"]
        assert found == ("changed" if fatal == 3 else "probe")


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_a_value_that_is_not_finite_is_null(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.append_metrics({"step": 1, "a": float("nan"), "b": float("inf"), "c": 0.1})
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": 0.1}\n'
    assert run.metrics() == [{"step": 1, "a": None, "b": None, "c": 0.1}]


@settings(max_examples=60, deadline=None)
@given(operation=st.sampled_from(["truncate", "flip", "delete"]), where=st.floats(0, 1), bit=st.integers(0, 7))
def test_any_change_to_what_was_logged_before_the_checkpoint_is_found(
    tmp_path_factory: pytest.TempPathFactory, operation: str, where: float, bit: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "metrics"
    path = (all_runs(root)[0] if root.exists() else finished(root, "one")).path
    file = path / "metrics.jsonl"
    before = file.read_bytes()
    content = bytearray(before)
    at = min(int(where * len(content)), len(content) - 1)
    if operation == "truncate":
        content = content[:at]
    else:
        content[at] ^= 1 << bit
    try:
        file.unlink() if operation == "delete" else file.write_bytes(content)
        for opening in (RunFolder.read, RunFolder.reopen):
            with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
                opening(path)
    finally:
        file.write_bytes(before)
    RunFolder.read(path)  # the control: it was whole


def test_what_follows_the_last_checkpoint_is_a_kills_doing_unless_the_run_finished(tmp_path: Path) -> None:
    for status, good in (("finished", False), ("running", True)):
        path = finished(tmp_path, status, status=status).path
        with open(path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 3, "lo')
        if good:
            RunFolder.read(path)
        else:
            with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
                RunFolder.read(path)


def test_metrics_that_a_full_disk_held_back_until_the_end_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path)
    run.warn = lambda message: None
    saved = save(run.checkpoints, 2, run_id=run.id)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    run.append_metrics({"step": 1, "all/loss": 2.0})
    run.saved(saved.path.name, step=2, samples=16, seconds=1.0, best=None)
    run.update(status="finished")
    monkeypatch.undo()
    run.close()
    assert RunFolder.read(run.path).metrics() == [{"step": 1, "all/loss": 2.0}]


def test_a_kill_while_metrics_are_truncated_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path, "one", status="running")  # as `begin` noted before
    monkeypatch.setattr("genai.metrics_file.write_atomically", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert in_a_fork(lambda: run.truncate_metrics(1)) == -signal.SIGKILL
    assert [record["step"] for record in RunFolder.read(run.path).metrics()] == [1, 2]


def test_metrics_after_the_checkpoint_are_dropped_with_a_half_line(tmp_path: Path) -> None:
    run = create(tmp_path)
    for step in range(1, 8):
        run.append_metrics({"step": step, "samples": 8 * step, "seconds": 0.1 * step, "loss": 1.0 / step})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 8, "lo')
    assert [record["step"] for record in run.metrics()] == list(range(1, 8))
    run.truncate_metrics(4)
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4]
    assert (run.info.steps, run.info.samples, run.info.metrics) == (4, 32, {"loss": 0.25})
    run.append_metrics({"step": 5, "loss": 9.0})
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4, 5]
    run.truncate_metrics(0)
    assert (run.path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "lo', b"\x00\x00", b"[1]", b'{"loss": 1}', b'{"step": 2, "step": 2}', b""]
)
def test_a_damaged_line_is_found_unless_it_lies_after_the_checkpoint(tmp_path: Path, line: bytes) -> None:
    run = create(tmp_path)
    path = run.path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n' + line + b'\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        run.metrics()
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        run.truncate_metrics(3)
    run.truncate_metrics(1)  # what a loss of power may leave behind the last sync is dropped anyhow
    assert run.metrics() == [{"step": 1, "loss": 1.0}]


def test_a_full_disk_for_metrics_and_log_is_one_warning_and_no_line_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path)
    told: list[str] = []
    run.warn = told.append
    run.append_metrics({"step": 1})
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if "metrics" in os.readlink(f"/proc/self/fd/{descriptor}"):
            if len(data) > 5:
                return write(descriptor, data[:5])  # part of it still fits
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    for step in range(2, 6):
        run.append_metrics({"step": step})
    assert len(told) == 1
    assert "No space left" in told[0]
    assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'  # no half line either
    monkeypatch.undo()
    run.append_metrics({"step": 6})
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_for_run_json_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(tmp_path)
    told: list[str] = []
    run.warn = told.append

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    run.update(data="digits")
    run.update(data="moons")
    with pytest.raises(OutputError):
        run.write_document("config.json", {})
    monkeypatch.undo()
    assert len(told) == 1
    assert not [path for path in run.path.iterdir() if path.suffix == ".tmp"]
    run.update(device="cpu")
    assert (RunFolder.read(run.path).info.data, len(told)) == ("moons", 1)


def test_the_log_has_lines_with_times(tmp_path: Path) -> None:
    run = create(tmp_path)
    run.log("one")
    run.log("two\n")
    assert [line.split()[-1] for line in (run.path / "log.txt").read_text().splitlines()] == ["one", "two"]
