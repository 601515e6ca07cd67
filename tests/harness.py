"""What the tests of training share: runs in forked processes that may be killed, and comparison of what they leave."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # imported by the first optimizer, a second that every fork would pay again
from safetensors.torch import load_file

import genai.evaluation
import genai.writers  # noqa: F401  # likewise
from genai import api, worker
from genai.config import compose_train
from genai.console import Console
from genai.errors import GenaiError
from genai.job import Place
from genai.launch.local import Ended
from genai.schema import Config

PLAIN = ["threads=1", "trainer.log_every=1", "trainer.preview_every=0", "trainer.eval_every=0"]
UNEQUAL = {"seconds", "samples_per_second", "tokens_per_second"}  # what no two runs share


def config_of(model: str, folder: Path, *overrides: str) -> Config:
    given = {text.split("=")[0] for text in overrides}
    return compose_train(model, [*(p for p in PLAIN if p.split("=")[0] not in given), *overrides, f"run.dir={folder}"])


def train(config: Config, *, resume: bool = False) -> None:
    api.train_config(config, resume=resume, console=Console(quiet=True))


def forked(action: Callable[[], None], faults: str | None = None) -> int:
    """Runs `action` in a fork, with torch at hand at once; its exit code, negative if a signal ended it."""
    return finish(start_fork(action, faults))


def start_fork(action: Callable[[], None], faults: str | None = None) -> int:
    torch.set_num_threads(1)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads = lambda count: None  # OpenMP's threads are not forked: to wait for them takes forever
        if faults:
            os.environ |= {"GENAI_TEST_FAULTS": "1", "GENAI_FAULT": faults}
        action()
        code = 0
    except GenaiError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ranks_in_forks(command: Sequence[str], count: int, message: bytes) -> Ended:
    """In place of run_ranks: the same processes, but forked, with torch at hand at once."""
    with tempfile.TemporaryDirectory() as meeting:

        def work(rank: int) -> None:
            os.environ |= Place(rank, count, (Path(meeting) / "rendezvous").as_uri()).environment()
            reading, writing = os.pipe()  # stays open at both ends: a worker ends with its standard input
            os.write(writing, message)
            os.dup2(reading, 0)
            sys.stdin = os.fdopen(0)
            os._exit(worker.main())

        pids = [start_fork(lambda rank=rank: work(rank)) for rank in range(count)]  # type: ignore[misc]
        codes = [finish(pid) for pid in pids]
    failed = next((rank for rank in range(count) if codes[rank]), 0)
    return Ended(codes[failed], failed)


def last_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step_*"))


def contents(checkpoint: Path) -> dict[str, Any]:
    """Every tensor and every number of a checkpoint but the clock's."""
    found: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        found |= {f"{file.stem}:{name}": tensor for name, tensor in load_file(file).items()}
    state = json.loads((checkpoint / "state.json").read_text())
    found |= {f"state:{key}": value for key, value in state.items() if key not in UNEQUAL}
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What is not equal bit for bit in the last checkpoints of two runs."""
    a, b = contents(last_checkpoint(one)), contents(last_checkpoint(other))
    unequal = sorted(a.keys() ^ b.keys())
    for name in sorted(a.keys() & b.keys()):
        x, y = a[name], b[name]
        same = torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y
        unequal += [] if same else [name]
    return unequal


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in UNEQUAL} for line in lines]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
