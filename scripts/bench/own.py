"""What the speed scripts share: the device, a clock, a trainer of ours that is ready to take steps, and how long it
takes for one."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch

from genai.config import compose_train
from genai.console import Console
from genai.data.source import Dataset
from genai.device import Runtime
from genai.factory import build_model
from genai.run import RunFolder
from genai.trainer import Trainer


def parser(**numbers: int) -> argparse.ArgumentParser:
    """Of --device and of these numbers."""
    found = argparse.ArgumentParser()
    found.add_argument("--device", default="auto")
    for name, value in numbers.items():
        found.add_argument(f"--{name}", type=int, default=value)
    return found


def now() -> float:
    """Seconds, once the device has done all that it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def module_at(path: Path) -> Any:
    """A file of Python as a module."""
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return module


def own_trainer(model: str, folder: Path, data: Dataset, overrides: list[str], runtime: Runtime) -> Trainer:
    config = compose_train(model, [*overrides, f"run.dir={folder}"])
    torch.manual_seed(0)
    built = build_model(config, data.spec)
    runtime.place(built)
    run = RunFolder.create(config.run, model=config.model.name)
    return Trainer(model=built, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=run)


def seconds_a_step(trainer: Trainer, steps: int) -> float:
    trainer.step()  # warms up
    start = now()
    for _ in range(steps):
        trainer.step()
    return (now() - start) / steps
