"""On a device whose tensors are not the CPU's, every family trains, goes on, draws and is evaluated; on any machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch.utils.backend_registration", reason="this torch takes no device written in Python")
from torch.utils import backend_registration

import genai

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device written in Python",
)
SCRIPT = str(Path(__file__).parent / "far_device.py")
SHORT = [
    "trainer.max_minutes=null", "trainer.max_steps=4", "trainer.save_every=2", "trainer.eval_every=2", "threads=1",
    "--quiet",
]  # fmt: skip
DIGITS = ["data=digits", "net.width=8"]
SMALL_GPT = ["net.width=32", "net.heads=2", "net.layers=1", "sampling.max_tokens=12"]


def commands(*lines: list[str], where: Path) -> list[int]:
    """Runs them in one process; how often each read a number off the device."""
    where.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, SCRIPT, json.dumps(lines)], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(number) for number in re.findall(r"^exit code 0, (\d+) reads", done.stdout, re.MULTILINE)]


def train(*settings: str, into: str = "run") -> list[str]:
    return ["train", *settings, *SHORT, f"run.dir={into}"]


def sample(*arguments: str, run: str = "run", out: str) -> list[str]:
    return ["sample", run, "-n", "2", "--out", out, *arguments]


def test_a_gan(tmp_path: Path) -> None:
    commands(
        train("gan", *DIGITS),
        ["resume", "run", "trainer.max_steps=6", "--quiet"],
        sample("--label", "2", out="a"),
        sample("--task", "interpolate", out="b"),
        ["eval", "run"],
        where=tmp_path,
    )


@pytest.mark.slow
def test_a_vae(tmp_path: Path) -> None:
    tasks = ("generate", "reconstruct", "encode", "vary", "traverse", "interpolate")
    commands(
        train("vae", *DIGITS),
        *(sample("--task", task, out=task) for task in tasks),
        ["eval", "run", "sampling.importance_samples=2"],
        where=tmp_path,
    )


@pytest.mark.slow
def test_a_diffusion_model(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(8, dtype=bool))
    steps = "sampling.steps=3"
    solvers = ("unipc", "sde_2m")
    commands(
        train("diffusion", *DIGITS, "net=unet", steps),
        *(sample(steps, f"sampling.solver={solver}", out=solver) for solver in solvers),
        sample(steps, "--task", "vary", out="varied"),
        sample(steps, "--task", "impute", "--mask", "mask.npy", out="imputed"),
        sample(steps, "--label", "3", "sampling.guidance=2", out="guided"),
        ["eval", "run", "sampling.likelihood_steps=2"],
        where=tmp_path,
    )


def test_a_transformer_of_text(tmp_path: Path) -> None:
    choices = ["repetition_penalty=1.2", "top_p=0.9", "top_k=5", "min_p=0.01", "log_probs=true"]
    commands(
        train("transformer", *SMALL_GPT),
        sample("--prompt", "To be", "--prompt", "a", *(f"sampling.{choice}" for choice in choices), out="a"),
        ["eval", "run"],
        where=tmp_path,
    )


def test_discriminative_models(tmp_path: Path) -> None:
    commands(
        train("discriminative", *DIGITS, "model.augment=[mirror,translation]", into="network"),
        train("discriminative", "experiment=discriminative/kernel_svm", "model.num_features=40"),
        sample(out="a"),
        ["eval", "run"],
        where=tmp_path,
    )


@pytest.mark.slow
def test_codes_of_a_first_stage(tmp_path: Path) -> None:
    commands(
        train("vae", *DIGITS, "model.latents=fsq", "model.downsample=4", into="first"),
        train("transformer", "data=digits", "data.codec=first", *SMALL_GPT[:-1]),
        sample("--label", "2", "sampling.guidance=2", out="a"),
        ["eval", "run"],
        where=tmp_path,
    )


@pytest.mark.slow
def test_latents_of_a_first_stage(tmp_path: Path) -> None:
    adversarial = ["model.downsample=4", "model.latent_dim=2", "model.adversarial=0.5", "model.likelihood=laplace"]
    commands(
        train("vae", *DIGITS, *adversarial, into="first"),
        train("diffusion", "data=digits", "data.codec=first", "net=unet", "net.width=8", "sampling.steps=3"),
        sample("sampling.steps=3", out="a"),
        where=tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["diffusion", "copula"])
def test_tables_are_drawn_by_conditions_filled_in_and_measured(model: str, tmp_path: Path) -> None:
    small = ["net.width=32", "sampling.steps=3"] if model == "diffusion" else []
    holes = str(Path(genai.__file__).parent / "data" / "builtin" / "penguins.csv")
    commands(
        train(model, "data=penguins", "data.target=null", "sampling.draws=2", *small),
        sample("--label", "sex=male", out="a"),
        sample("--task", "impute", "--input", holes, out="b"),
        ["eval", "run"],
        where=tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["vae", *DIGITS, "model.latents=vq", "model.downsample=4", "model.codes=16", "model.latent_dim=4"],
        ["vae", "data=digits", "net=mlp", "optim=lbfgs", "trainer.batch_size=all"],
        ["vae", *DIGITS, "model.prior=normal"],
        ["diffusion", "data=moons"],
        ["diffusion", "data=penguins", "net.width=32", "sampling.steps=3"],
        ["vae", "data=penguins", "net.width=32"],
        ["gan", "data=penguins", "net.width=32"],
        ["copula", "trainer.batch_size=30"],
        ["diffusion", "data=spoken_digits", "experiment=diffusion/audio_digits", "net.width=8", "sampling.steps=3"],
        ["diffusion", "data=emoji", "data.size=16", "net=dit", "net.width=32", "net.layers=1", "net.patch=4",
         "model.objective=flow", "model.weighting=learned", "sampling.steps=3"],
    ],
    ids=lambda settings: " ".join(settings[:3]),
)  # fmt: skip
def test_further_forms_train(settings: list[str], tmp_path: Path) -> None:
    commands(train(*settings), where=tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        ["gan", *DIGITS],
        # A mixture is looked at every eighth step.
        pytest.param(["vae", *DIGITS, "model.prior=normal"], marks=pytest.mark.slow),
        ["diffusion", *DIGITS, "net=unet", "sampling.steps=2"],
        ["transformer", *SMALL_GPT],
    ],
    ids=lambda settings: settings[0],
)
def test_a_training_step_reads_nothing_off_the_device(settings: list[str], tmp_path: Path) -> None:
    """It would wait there for all that was given to it."""
    silent = [*(f"trainer.{kind}_every=0" for kind in ("eval", "preview", "save")), "trainer.log_every=100"]
    runs = [
        ["train", *settings, *silent, "trainer.max_minutes=null", f"trainer.max_steps={steps}", "threads=1", "--quiet",
         f"run.dir={steps}"]
        for steps in (3, 9)
    ]  # fmt: skip
    few, many = commands(*runs, where=tmp_path)
    assert few == many
