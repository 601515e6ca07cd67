"""Runs are found by path, part of a name, time and figure; what is no run is refused; removing takes no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genai import run as runs
from genai.errors import BusyError, CheckpointError, SecurityError
from genai.run import RunFolder
from genai.run_index import all_runs, find
from small_run import create, finished


def test_runs_are_found_by_path_part_and_time(tmp_path: Path) -> None:
    first, second = finished(tmp_path, "apple"), finished(tmp_path, "group/pear")
    running = create(tmp_path, name="pineapple")
    empty = finished(tmp_path, "bare", checkpoint=False)
    failed = finished(tmp_path, "failed", status="failed")
    expected = [first.path, second.path, running.path, empty.path, failed.path]
    assert [run.path for run in all_runs(tmp_path)] == expected
    assert find(None, tmp_path) == find("@last", tmp_path) == second.path
    assert find(str(first.path), tmp_path) == first.path
    assert find("pear", tmp_path) == find("group/pear", tmp_path) == find("probe/group", tmp_path) == second.path
    assert find("apple", tmp_path) == first.path  # a whole name beats a part
    assert find(str(first.checkpoints / "step_00000002"), tmp_path) == first.checkpoints / "step_00000002"
    with pytest.raises(CheckpointError, match="part of 5 names") as caught:
        find("p", tmp_path)
    assert str(second.path) in str(caught.value)
    with pytest.raises(CheckpointError, match="no run 'cherry'"):
        find("cherry", tmp_path)
    with pytest.raises(CheckpointError):
        find("x" * 5000, tmp_path)


def test_the_best_run_of_a_metric_heeds_its_direction(tmp_path: Path) -> None:
    runs_ = {}
    for name, accuracy in (("low", 0.1), ("high", 0.9)):
        run = runs_[name] = create(tmp_path, name=name)
        run.append_metrics({"step": 1, "valid/accuracy": accuracy, "valid/mse": accuracy})
        run.update(status="finished")
        run.close()
    (runs_["low"].path / "eval").mkdir()
    (runs_["low"].path / "eval" / "digits.json").write_text('{"kid_x": 3.0, "data": "digits"}')
    assert find("@best:accuracy", tmp_path) == runs_["high"].path
    assert find("@best:valid/mse", tmp_path) == find("@best:mse", tmp_path) == runs_["low"].path
    assert find("@best:kid_x", tmp_path) == runs_["low"].path
    with pytest.raises(CheckpointError, match="choose one of: accuracy, mse"):
        find("@best:nll", tmp_path)


def test_what_is_no_run_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("")
    for path, said in (("empty", "empty"), ("notes", r"no run\.json"), ("notes/x.txt", "a file"), ("absent", "no run")):
        with pytest.raises(CheckpointError, match=said):
            find(str(tmp_path / path), tmp_path)
        for opening in (RunFolder.read, RunFolder.reopen):
            with pytest.raises(CheckpointError):
                opening(tmp_path / path)
    with pytest.raises(CheckpointError, match="no run with a checkpoint"):
        find(None, tmp_path / "absent")


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"\x80\x04K\x01.", b"cos\nsystem\n."])
def test_a_pickle_given_as_a_run_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "model.pt", tmp_path / "model.safetensors", tmp_path / "folder" / "model.ckpt"):
        path.write_bytes(content)
        with pytest.raises(SecurityError, match="pickle"):
            find(str(path.parent if path.parent.name == "folder" else path), tmp_path)


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = finished(tmp_path, "good"), finished(tmp_path, "bad")
    (bad.path / "run.json").write_text("{")
    found = {run.path: run.info for run in all_runs(tmp_path)}
    assert found[good.path].status == "finished"
    assert found[bad.path].status == "failed"
    assert "run.json" in str(found[bad.path].error)


def test_removing_takes_a_run_and_nothing_else(tmp_path: Path) -> None:
    first, second = finished(tmp_path, "one"), finished(tmp_path, "two")
    (second.path / "thesis.tex").write_text("mine")
    (tmp_path / "link").symlink_to(second.path)
    busy = create(tmp_path, name="busy")
    with pytest.raises(BusyError):
        runs.remove(busy.path)
    with pytest.raises(SecurityError):
        runs.remove(tmp_path / "link")
    with pytest.raises(CheckpointError):
        runs.remove(tmp_path)
    runs.remove(first.path)
    runs.remove(second.path)
    assert not first.path.exists()
    assert os.listdir(second.path) == ["thesis.tex"]
    assert sorted(os.listdir(tmp_path / "probe")) == ["busy", "two"]


def test_runs_are_listed_without_torch(tmp_path: Path) -> None:
    finished(tmp_path, "one")
    code = (
        "import sys, genai.run_index as r; from pathlib import Path; root = Path(sys.argv[1])\n"
        "print(len(r.all_runs(root)), r.find(None, root).name, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "one", "False"]
