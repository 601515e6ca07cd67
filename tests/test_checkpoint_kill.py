"""`kill -9` at any instant of saving and pruning loses no checkpoint that was reported, and leaves none half made."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genai import checkpoint as checkpoints
from genai.errors import OutputError
from small_checkpoint import is_whole, save

KEEP = 2
POINTS = [
    *(f"save:after_file:{number}" for number in range(1, 7)),
    "save:before_manifest",
    "save:before_rename",
    "save:after_rename",
    "save:prune",
]


def start_fork(action: Callable[[int], None]) -> tuple[int, int]:
    """Starts `action` in a fork, which may write bytes into a pipe: its process and the pipe's other end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        action(writing)
    finally:
        os._exit(0)


def finish(pid: int, reading: int) -> tuple[int, bytes]:
    """How a fork ended (negative: by a signal) and all that it wrote."""
    _, status = os.waitpid(pid, 0)
    with open(reading, "rb") as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read()


def save_and_prune(folder: Path, step: int) -> None:
    save(folder, step)
    checkpoints.prune(folder, keep=KEEP, protect=[10])


def check(folder: Path, at_least: int) -> int:
    """What a restart finds: the newest checkpoint, complete, and no older than the last one reported."""
    found = checkpoints.newest(folder, warn=None)  # a damaged one, newest or not, is an error here
    assert found is not None
    assert found.step >= at_least
    for step in checkpoints.steps(folder):
        assert is_whole(checkpoints.named(folder / f"step_{step:08d}"))
    assert 10 in checkpoints.steps(folder)
    checkpoints.sweep(folder)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    return found.step


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_leaves_only_whole_checkpoints(tmp_path: Path, point: str) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)

    def killed(writing: int) -> None:
        os.environ |= {"GENAI_TEST_FAULTS": "1", "GENAI_FAULT": f"kill@{point}"}
        save_and_prune(tmp_path, 40)

    code, _ = finish(*start_fork(killed))
    assert code == -signal.SIGKILL  # the control: the point was reached
    left_over = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert bool(left_over) == (point != "save:after_rename")  # and something was under way
    committed = point in ("save:after_rename", "save:prune")
    assert check(tmp_path, 30) == (40 if committed else 30)
    save_and_prune(tmp_path, 40)
    assert checkpoints.steps(tmp_path) == [10, 30, 40]


@pytest.mark.parametrize("point", ["save:before_rename", "save:before_replace", "save:after_rename"])
def test_a_kill_while_a_step_is_replaced_loses_neither(tmp_path: Path, point: str) -> None:
    save(tmp_path, 10)

    def killed(writing: int) -> None:
        os.environ |= {"GENAI_TEST_FAULTS": "1", "GENAI_FAULT": f"kill@{point}"}
        save(tmp_path, 10)

    code, _ = finish(*start_fork(killed))
    assert code == -signal.SIGKILL
    checkpoints.sweep(tmp_path)
    assert check(tmp_path, 10) == 10


def test_faults_are_for_tests_alone(tmp_path: Path) -> None:
    def not_killed(writing: int) -> None:
        os.environ["GENAI_FAULT"] = "kill@save:before_rename"
        save_and_prune(tmp_path, 10)
        os.write(writing, b"saved")

    assert finish(*start_fork(not_killed)) == (0, b"saved")


def test_a_limit_of_the_kernel_in_the_middle_of_a_file_is_an_output_error(tmp_path: Path) -> None:
    save(tmp_path, 10)

    def limited(writing: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(tmp_path, 20, tensors={"model": {"w": torch.ones(250_000)}})
        except OutputError as error:
            os.write(writing, str(error).encode())

    code, told = finish(*start_fork(limited))
    assert code == 0
    assert b"needs 1.0 MB" in told
    assert b"last good: step_00000010" in told
    assert b"model.safetensors" in told
    assert b"ulimit" in told
    assert os.listdir(tmp_path) == ["step_00000010"]
    assert check(tmp_path, 10) == 10


@pytest.mark.parametrize("kills", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_kills_at_random_instants_lose_nothing(kills: int, tmp_path: Path) -> None:
    """One folder through all of them, as one run through as many crashes: 0 bad, 0 lost, and never back."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    instants = random.Random(seed)
    save(tmp_path, 10)
    step, under_way = 10, 0
    for _ in range(kills):

        def train(writing: int, first: int = step + 1) -> None:
            os.write(writing, b"begun")
            for number in range(first, first + 10_000):
                save_and_prune(tmp_path, number)
                os.write(writing, number.to_bytes(4, "little"))

        pid, reading = start_fork(train)
        assert os.read(reading, 5) == b"begun"
        # On a busy machine no save may end in the time that is slept: some kills wait for one or two.
        waited = b"".join(os.read(reading, 4) for _ in range(instants.randrange(3)))
        time.sleep(instants.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        code, written = finish(pid, reading)
        assert code == -signal.SIGKILL
        written = waited + written
        reported = int.from_bytes(written[-4:], "little") if written else step
        under_way += any(name.startswith(".") for name in os.listdir(tmp_path))
        step = check(tmp_path, reported)
    assert under_way >= kills // 3  # the control: kills did land in the middle of saving or deleting
    assert step >= 10 + kills // 2  # and saves went on between them
