"""Several processes train as one that accumulates, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import (
    config_of,
    contents,
    differences,
    forked,
    last_checkpoint,
    metrics,
    ranks_in_forks,
    train,
    wait_for,
)

ENDLESS = ["trainer.max_steps=100000", "trainer.save_every=0"]


def genai(*arguments: str, faults: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, env=environment(faults))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "genai", *arguments]


def environment(faults: str | None = None) -> dict[str, str]:
    return os.environ | ({"GENAI_TEST_FAULTS": "1", "GENAI_FAULT": faults} if faults else {})


def training(model: str, folder: Path, *overrides: str) -> list[str]:
    plain = [
        "threads=1",
        "trainer.timeout_seconds=60",
        "trainer.log_every=1",
        "trainer.preview_every=0",
        f"run.dir={folder}",
    ]
    return ["train", model, *plain, *overrides]


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("gan", ["data=digits", "net.width=8", "trainer.max_steps=20", "trainer.max_minutes=null"]),
        pytest.param(
            "gan",
            ["data=digits", "net.width=8", "model.loss=hinge", "trainer.max_steps=20", "trainer.max_minutes=null"],
            marks=pytest.mark.slow,
        ),
        # A deviation that follows the error, and a discriminator weighed at each sample.
        (
            "vae",
            ["data=digits", "net.width=8", "model.adversarial=0.5", "trainer.max_steps=20", "trainer.max_minutes=null"],
        ),
        # A codebook that follows the batches, and gives codes that nothing is near another place.
        (
            "vae",
            [
                "data=digits",
                "net.width=8",
                "model.latents=vq",
                "model.downsample=4",
                "model.latent_dim=4",
                "trainer.max_steps=20",
                "trainer.max_minutes=null",
            ],
        ),
        ("probe_chars", ["trainer.max_steps=20"]),  # too few held-out words for both processes
        pytest.param("probe_gan", ["trainer.max_steps=20"], marks=pytest.mark.slow),
        pytest.param("probe_painter", ["trainer.max_steps=20"], marks=pytest.mark.slow),
        pytest.param("probe_softmax", ["trainer.max_steps=20", "optim=adam"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one_that_accumulates(
    model: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genai.launch.local.run_ranks", ranks_in_forks)
    train(config_of(model, tmp_path / "two", *overrides, "trainer.devices=2", "trainer.timeout_seconds=60"))
    assert forked(lambda: train(config_of(model, tmp_path / "one", *overrides, "trainer.accumulate=2"))) == 0
    parts = [json.loads((last_checkpoint(tmp_path / name) / "config.json").read_text()) for name in ("one", "two")]
    assert [part["trainer"]["devices"] for part in parts] == [1, 2]
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(two) == len(one) == 20
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name.endswith("/loss"):
                np.testing.assert_allclose(b[name], a[name], rtol=1e-6, err_msg=f"{name} at step {a['step']}")
    # What follows the batches instead of a gradient: deviations, codes, the parts of a prior.
    saved = [contents(last_checkpoint(tmp_path / name)) for name in ("one", "two")]
    for name, value in saved[0].items():
        if name.startswith("model:") and not name.endswith(("weight", "bias")):
            torch.testing.assert_close(saved[1][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_that_are_killed_go_on_bit_for_bit(tmp_path: Path) -> None:
    overrides = ["data=digits", "net.width=8", "trainer.devices=2", "trainer.max_steps=60", "trainer.save_every=30"]
    assert genai(*training("gan", tmp_path / "whole", *overrides)).returncode == 0
    killed = genai(*training("gan", tmp_path / "halves", *overrides), faults="kill@step:35")
    assert killed.returncode == 10, killed.stderr
    assert genai("resume", str(tmp_path / "halves")).returncode == 0
    assert differences(tmp_path / "whole", tmp_path / "halves") == []
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")


def test_a_signal_stops_all_processes_at_one_step_with_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*training("probe_gan", folder, *ENDLESS, "trainer.devices=2")), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics_so_far(folder)) > 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    steps = [p.name for p in folder.glob("checkpoints/step_*")]
    assert len(steps) == 1
    assert metrics_so_far(folder)[-1]["step"] == int(steps[0][5:])
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"


def test_the_processes_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    """Else they would go on writing into a folder that the next run may lock."""
    folder = tmp_path / "run"
    process = subprocess.Popen(command(*training("probe_gan", folder, *ENDLESS, "trainer.devices=2")))
    wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics_so_far(folder)) > 3)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(ranks) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{rank}/cmdline").exists() for rank in ranks), seconds=10)


@pytest.mark.parametrize("seconds", [1.2, 2.5])
def test_a_signal_before_training_ends_it_without_a_word_too_many(seconds: float, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = command(*training("probe_gan", folder, *ENDLESS, "trainer.devices=2"))
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    saved = list(folder.glob("checkpoints/step_*"))
    assert ("genai resume" in told) == bool(saved)
    assert bool(saved) or not folder.exists()


def test_a_killed_process_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*training("probe_gan", folder, *ENDLESS, "trainer.devices=2")), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (folder / "metrics.jsonl").exists() and len(metrics_so_far(folder)) > 3)
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(first), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 10
    assert told.count("error: process 0 of 2 was killed by signal 9") == 1
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], "was killed" in record["error"]) == ("failed", True)


def test_a_failure_in_several_processes_is_kept_in_run_json(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = ["data=digits", "net.width=8", "trainer.devices=2", "trainer.max_steps=50", "optim.lr=1e30", "--quiet"]
    done = genai(*training("gan", folder, *overrides))
    assert done.returncode == 5
    assert done.stderr.count("error:") == 1
    assert all(line.startswith("error:") for line in done.stderr.splitlines())  # --quiet holds in every process
    assert "not finite at step" in json.loads((folder / "run.json").read_text())["error"]


def metrics_so_far(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_an_error_in_every_process_is_told_once(tmp_path: Path) -> None:
    done = genai(*training("probe_gan", tmp_path / "run", "trainer.devices=2", "trainer.batch_size=1"))
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "cannot be cut into 2" in done.stderr
