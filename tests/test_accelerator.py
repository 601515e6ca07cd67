"""What the CPU cannot tell, on the first accelerator of this machine: every family trains on it, goes on exactly after
a kill, draws there what it draws on a CPU, and compiles. All other tests run on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ACCELERATORS
from harness import contents, differences, last_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ACCELERATORS is None, reason="there is no accelerator"),
]
SHORT = ["trainer.max_minutes=null", "trainer.max_steps=12", "trainer.save_every=6", "trainer.log_every=4"]
FAMILIES = {
    "gan": ["gan", "data=digits", "net.width=16"],
    "vae": ["vae", "data=digits", "net.width=16"],
    "fsq": ["vae", "data=digits", "model.latents=fsq", "model.downsample=4", "net.width=16"],
    "unet": ["diffusion", "data=digits", "net=unet", "net.width=16"],
    "dit": ["diffusion", "data=digits", "net=dit", "net.width=64", "net.layers=2", "net.patch=2"],
    "flow": ["diffusion", "data=moons"],
    "rows": ["diffusion", "data=penguins", "net.width=64"],
    "rows_vae": ["vae", "data=penguins", "net.width=64"],
    "rows_gan": ["gan", "data=penguins", "net.width=64"],
    "transformer": ["transformer", "net.layers=2", "net.width=64", "net.heads=2", "sampling.max_tokens=40"],
    "gpt2": ["transformer", "net.layers=2", "net.width=64", "net.heads=2", "net.norm=layer", "net.positions=learned",
             "net.feed=gelu", "net.qk_norm=false", "net.tied=true", "optim=adamw", "optim.lr=1e-3"],
}  # fmt: skip
each_family = pytest.mark.parametrize("family", FAMILIES)


def genai(*arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= ACCELERATORS or {}
    if fault:
        environment |= {"GENAI_TEST_FAULTS": "1", "GENAI_FAULT": fault}
    command = [sys.executable, "-m", "genai", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def train(family: str, folder: Path, *overrides: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    return genai("train", *FAMILIES[family], *SHORT, *overrides, f"run.dir={folder}", fault=fault)


@each_family
def test_a_killed_run_goes_on_exactly(family: str, tmp_path: Path) -> None:
    """With deterministic=true, which an accelerator needs for it."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    done = train(family, whole, "deterministic=true")
    assert done.returncode == 0, done.stderr
    killed = train(family, halves, "deterministic=true", fault="kill@step:9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = genai("resume", str(halves))
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((last_checkpoint(whole) / "state.json").read_text())["environment"]["device"] != "cpu"
    assert differences(whole, halves) == []


@each_family
def test_samples_are_those_of_a_cpu(family: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(family, run, "deterministic=true")
    assert done.returncode == 0, done.stderr
    found = []
    for name, more in (("here", []), ("again", ["--batch-size", "2"]), ("there", ["device=cpu"])):
        drawn = genai("sample", str(run), "-n", "4", "--seed", "1", "dtype=fp32", "--format", "npz",
                      "--out", str(tmp_path / name), *more)  # fmt: skip
        assert drawn.returncode == 0, drawn.stderr
        files = sorted(file for file in (tmp_path / name).iterdir() if file.suffix in (".npz", ".jsonl"))
        assert files
        found.append(files)
    for one in found[1:]:
        for file, other in zip(found[0], one, strict=True):
            if file.suffix == ".npz":
                with np.load(file) as x, np.load(other) as y:
                    for key in x.files:
                        if x[key].dtype.kind in "fiu":
                            a, b = (np.nan_to_num(z[key].astype(float)) for z in (x, y))  # NaN: missing in a table
                            scale = 255.0 if x[key].dtype == np.uint8 else max(1.0, np.abs(a).max())
                            assert np.abs(a - b).mean() < 2e-3 * scale, key
            else:
                assert file.read_text() == other.read_text()


@each_family
def test_it_compiles(family: str, tmp_path: Path) -> None:
    done = train(family, tmp_path / "run", "compile=true")
    assert done.returncode == 0, done.stderr
    for name, value in contents(last_checkpoint(tmp_path / "run")).items():
        if name.startswith("model:"):
            assert np.isfinite(value.numpy()).all(), name


def test_a_step_that_is_not_finite_changes_no_weights(tmp_path: Path) -> None:
    """It is seen at the next log, on which the run ends; what is saved is finite."""
    done = genai("train", *FAMILIES["unet"], "optim=adam", "optim.lr=1e30", "optim.schedule=constant",
                 "trainer.clip_norm=null", "trainer.save_every=1", "trainer.log_every=4", "trainer.max_steps=12",
                 f"run.dir={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "not finite at step" in done.stderr
    assert "smaller rate" in done.stderr
    for name, value in contents(last_checkpoint(tmp_path / "run")).items():
        if name.startswith(("model:", "optim:")):
            assert np.isfinite(value.numpy()).all(), name


def test_too_large_a_batch_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    done = genai("train", "diffusion", "data=fashion_mnist", "data.size=256", "net=unet", "trainer.batch_size=all",
                 f"run.dir={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "out of memory" in done.stderr
    assert "Traceback" not in done.stderr
