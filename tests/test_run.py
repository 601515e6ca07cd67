"""A run folder is one run's: made atomically, locked while it trains, free again however its process died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from genai.errors import BusyError, ConfigError, OutputError
from genai.lock import Lock, is_held
from genai.run import RunFolder
from genai.run_index import find
from genai.schema import PathText, RunConfig
from small_run import create, finished, in_a_fork


def test_runs_that_start_in_the_same_second_differ(tmp_path: Path) -> None:
    paths = {create(tmp_path).path for _ in range(4)}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path / "probe"}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    made = finished(tmp_path, "one", changes=[{"key": "seed", "old": 0, "new": 1, "kind": "harmless", "step": 3}])
    read = RunFolder.read(made.path)
    assert read.info == made.info
    assert read.document("config.json") == {"model": {"name": "probe"}}
    assert read.metrics() == made.metrics()
    info = json.loads((made.path / "run.json").read_bytes())
    assert (info["status"], info["steps"], info["samples"], info["seconds"]) == ("finished", 2, 16, 1.0)
    assert (info["metrics"], info["checkpoint"]) == ({"all/loss": 1.0}, "step_00000002")
    assert info["best"] == {"step": 2, "value": 0.25, "metric": "mse"}
    assert read.info.changes[0].key == "seed"


def test_run_json_takes_only_what_fits_its_types(tmp_path: Path) -> None:
    run = create(tmp_path)
    for change in ({"parameters": -1}, {"status": "sleeping"}, {"surplus": 1}, {"data": 3}):
        with pytest.raises(TypeError):
            run.update(**change)
    assert RunFolder.read(run.path).info == run.info


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/abs", "", ".", "..", ".hidden", "@last", "a\u0000b", "x" * 4096, "a//b"]
)
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name"):
        create(tmp_path / "root", name=name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_leaves_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root" / "probe").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "probe" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="leads out"):
        create(tmp_path / "root", name="link/x")


def test_any_folder_can_be_named_as_run_dir(tmp_path: Path) -> None:
    path = tmp_path / "中文 (a,b)=#~"
    run = RunFolder.create(RunConfig(dir=PathText(str(path))), model="probe")
    assert run.path == path
    run.close()
    assert find(str(path), tmp_path) == path


def test_an_output_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for where in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/genai/run")):
        with pytest.raises(OutputError, match="cannot be written"):
            RunFolder.create(RunConfig(dir=PathText(str(where))), model="probe")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError):
        create(tmp_path)


def test_a_folder_that_holds_a_run_is_not_taken(tmp_path: Path) -> None:
    run = finished(tmp_path, "one")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    for config in (RunConfig(root=PathText(str(tmp_path)), name="one"), RunConfig(dir=PathText(str(run.path)))):
        with pytest.raises(BusyError, match="holds a run already"):
            RunFolder.create(config, model="probe")
    (run.path / "run.json").unlink()
    with pytest.raises(BusyError):  # its checkpoints are still somebody's
        create(tmp_path, name="one")
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "run.json")


def test_a_run_that_was_killed_before_it_began_is_nobodys(tmp_path: Path) -> None:
    def train() -> None:
        create(tmp_path, name="one")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(train) == -signal.SIGKILL
    taken = create(tmp_path, name="one")
    taken.begin({}, {})
    taken.close()
    with pytest.raises(BusyError):
        create(tmp_path, name="one")


@pytest.mark.parametrize("name", ["config.json", "samples/mine.png", "metrics.jsonl", "log.txt"])
def test_files_of_somebodys_are_neither_overwritten_nor_removed(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match="would overwrite"):
        RunFolder.create(RunConfig(dir=PathText(str(tmp_path / "project"))), model="probe")
    assert mine.read_text() == "mine"


def test_discarding_takes_back_what_was_made_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.tex").write_text("mine")
    for name in ("project", "new"):
        run = RunFolder.create(RunConfig(dir=PathText(str(tmp_path / name))), model="probe")
        run.log("a line")
        run.discard()
    assert os.listdir(tmp_path) == ["project"]
    assert os.listdir(tmp_path / "project") == ["thesis.tex"]


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_pid_host_and_time(tmp_path: Path) -> None:
    run = create(tmp_path, name="one")
    code = (
        "import sys; from pathlib import Path; from genai.run import RunFolder\n"
        "try: RunFolder.reopen(Path(sys.argv[1]))\n"
        "except Exception as error: print(error); sys.exit(getattr(error, 'exit_code', 1))"
    )
    asked = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert asked.returncode == 8
    assert f"process {os.getpid()} on {os.uname().nodename} since 20" in asked.stdout
    run.close()
    asked = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout) == (0, "")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    def train() -> None:
        create(tmp_path, name="one")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(train) == -signal.SIGKILL
    path = tmp_path / "probe" / "one"
    assert (path / ".lock").exists()
    assert json.loads((path / "run.json").read_bytes())["status"] == "running"
    assert RunFolder.read(path).info.status == "stopped"  # nobody is running it
    run = RunFolder.reopen(path)
    assert RunFolder.read(path).info.status == "running"
    run.close()


def test_a_child_that_outlives_a_killed_training_does_not_hold_its_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def train() -> None:
        create(tmp_path, name="one")
        if os.fork() == 0:  # as a data worker
            os.close(reading)
            os.write(writing, b"%d" % os.getpid())
            signal.pause()
        signal.pause()

    pid = os.fork()
    if pid == 0:
        train()
    worker = int(os.read(reading, 20))
    try:
        assert is_held(tmp_path / "probe" / "one" / ".lock")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.kill(worker, 0)  # the control: it is alive
        RunFolder.reopen(tmp_path / "probe" / "one").close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)  # until all are there
            code = 1
            try:
                run = RunFolder.create(RunConfig(dir=PathText(str(tmp_path / "one"))), model="probe")
                run.begin({}, {})
                code = 0
            except BusyError:
                code = 8
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)  # whatever happens: a second pytest must not go on from here
        children.append(pid)
    os.close(writing)
    os.close(reading)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(codes) == [0] + [8] * 7


def test_who_made_the_folder_but_comes_second_leaves_the_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(dir=PathText(str(tmp_path / "one")))
    make = Path.mkdir

    def overtaken(self: Path, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        monkeypatch.setattr(Path, "mkdir", make)
        winner = RunFolder.create(config, model="probe")
        winner.begin({}, {})
        winner.close()

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with pytest.raises(BusyError, match="holds a run already"):
        RunFolder.create(config, model="probe")
    assert RunFolder.read(tmp_path / "one").info.starts == 1


def test_looking_at_the_lock_does_not_take_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".lock")
    lock.release()
    assert not is_held(tmp_path / ".lock")
    assert not is_held(tmp_path / "absent")
    Lock(tmp_path / ".lock").release()


def test_going_on_sweeps_what_a_kill_left(tmp_path: Path) -> None:
    run = finished(tmp_path, "one")
    for name in (".tmp-step_00000003-1-ab", ".trash-step_00000001-ab"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "model.safetensors").write_bytes(b"half")
    again = RunFolder.reopen(run.path)
    assert os.listdir(again.checkpoints) == ["step_00000002"]
    assert again.info == run.info  # nothing changes before training begins
