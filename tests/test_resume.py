"""A run that was killed or stopped goes on as if nothing had happened: bit for bit, each step once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from genai import api
from genai.checkpoint import save
from genai.console import Console
from genai.errors import CheckpointError, GenaiError
from genai.run import RunFolder
from genai.run_info import read_info
from harness import (
    config_of,
    contents,
    differences,
    finish,
    forked,
    last_checkpoint,
    metrics,
    start_fork,
    train,
    wait_for,
)

STEPS = ["trainer.max_steps=60", "trainer.save_every=30"]
SMALL = ["data=digits", "net.width=8", "trainer.max_minutes=null"]
CASES = {
    "gan-sgd": ("gan", [*SMALL, "optim=sgd", "optim.lr=0.001", *STEPS]),  # the penalty gives one bias no gradient
    "gan": ("gan", [*SMALL, *STEPS]),  # 60 batches of 32 cross the end of the 1,617 digits' epoch
    "gan-accumulate": ("gan", [*SMALL, *STEPS, "trainer.accumulate=2"]),
    "gan-bf16": ("gan", [*SMALL, "dtype=bf16", *STEPS]),
    "gan-points": ("gan", ["data=moons", "net.width=16", "trainer.max_minutes=null", *STEPS]),
    "probe_gan": ("probe_gan", STEPS),
    "probe_chars": ("probe_chars", [*STEPS, "trainer.accumulate=2"]),
    "probe_softmax": ("probe_softmax", ["trainer.max_steps=6", "trainer.save_every=3", "optim.max_iter=3"]),
}


def killed_and_resumed(model: str, folder: Path, overrides: list[str], at: int) -> None:
    config = config_of(model, folder, *overrides)
    assert forked(lambda: train(config), faults=f"kill@step:{at}") == -signal.SIGKILL
    assert forked(lambda: train(config, resume=True)) == 0


@pytest.mark.parametrize("case", CASES)
def test_half_a_run_a_kill_and_the_other_half_equal_a_whole_run(case: str, tmp_path: Path) -> None:
    model, overrides = CASES[case]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = config_of(model, whole, *overrides)
    assert forked(lambda: train(config)) == 0
    killed_and_resumed(model, halves, overrides, at=4 if case == "probe_softmax" else 35)
    assert differences(whole, halves) == []
    assert metrics(whole) == metrics(halves)
    assert [line["step"] for line in metrics(whole)] == list(range(1, config.trainer.max_steps + 1))  # type: ignore[operator]


def test_reading_with_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genai.data.source.RESIDENT_BYTES", 0)
    monkeypatch.setattr("genai.data.split.RESIDENT_BYTES", 0, raising=False)
    pictures = write_pictures(tmp_path / "pictures")
    overrides = [f"data.path={pictures}", "net.width=8", "trainer.batch_size=16", *STEPS]
    plain = config_of("gan", tmp_path / "plain", *overrides)
    assert forked(lambda: train(plain)) == 0
    killed_and_resumed("gan", tmp_path / "workers", [*overrides, "data.workers=2"], at=35)
    assert differences(tmp_path / "plain", tmp_path / "workers") == []
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "workers")


def test_a_run_on_latents_goes_on_exactly_when_its_first_stage_is_gone(tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert forked(lambda: train(config_of("probe_autoencoder", first, "trainer.max_steps=4"))) == 0
    config = config_of("probe_gan", tmp_path / "whole", "data=digits", f"data.codec={first}", *STEPS)
    assert forked(lambda: train(config)) == 0
    halves = config_of("probe_gan", tmp_path / "halves", "data=digits", f"data.codec={first}", *STEPS)
    assert forked(lambda: train(halves), faults="kill@step:35") == -signal.SIGKILL
    shutil.rmtree(first)
    assert forked(lambda: train(halves, resume=True)) == 0
    assert differences(tmp_path / "whole", tmp_path / "halves") == []
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")


def write_pictures(folder: Path, count: int = 40) -> Path:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        target = folder / f"class {i % 2}" / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(target)
    return folder


def test_a_state_without_one_of_its_keys_is_seen(tmp_path: Path) -> None:
    """The negative control: whatever the state holds, leaving it out is refused or changes what follows."""
    overrides = ["trainer.max_steps=8", "trainer.save_every=4", "trainer.log_every=8", "trainer.patience=50",
                 "trainer.keep=9", "trainer.eval_every=3"]  # fmt: skip
    whole = tmp_path / "whole"
    config = config_of("probe_chars", whole, *overrides)
    assert forked(lambda: train(config)) == 0
    middle = whole / "checkpoints" / "step_00000004"
    assert middle.is_dir()
    state = json.loads((middle / "state.json").read_text())
    stored = contents(middle)
    assert forked(lambda: resume_without(tmp_path / "control", config, state, stored, None)) == 0
    assert differences(whole, tmp_path / "control") == []  # the unharmed state continues exactly
    harmless = {"seconds", "best_step", "best_value",
                "evaluations_without_gain", "environment", "plan"}  # fmt: skip
    for key in state.keys() - harmless:
        folder = tmp_path / key
        code = forked(lambda k=key, f=folder: resume_without(f, config, state, stored, k))  # type: ignore[misc]
        assert code in (3, 4) or differences(whole, folder) != [] or metrics(whole) != metrics(folder), key
        assert code != 1, key
    for name in [n for n in stored if n.split(":")[0] in ("model", "ema", "optim")]:
        folder = tmp_path / name.replace("/", "_").replace(":", "_")
        code = forked(lambda n=name, f=folder: resume_without(f, config, state, stored, n))  # type: ignore[misc]
        assert code == 4 or differences(whole, folder) != [], name


def resume_without(
    folder: Path, config: object, state: dict[str, object], stored: dict[str, object], missing: str | None
) -> None:
    """Resumes a copy of the run whose checkpoint lacks one key of the state or one tensor."""
    import dataclasses

    from genai.schema import PathText

    source = Path(str(config.run.dir))  # type: ignore[attr-defined]
    shutil.copytree(source, folder)
    for step in (folder / "checkpoints").glob("step_*"):
        shutil.rmtree(step)
    tensors: dict[str, dict[str, object]] = {"model": {}, "ema": {}, "optim": {}}
    for name, value in stored.items():
        kind, _, rest = name.partition(":")
        if kind in tensors and name != missing:
            tensors[kind][rest] = value
    original = source / "checkpoints" / "step_00000004"
    documents = {name: json.loads((original / f"{name}.json").read_text()) for name in ("config", "spec")}
    documents["state"] = {key: value for key, value in state.items() if key != missing}
    run_id = json.loads((source / "run.json").read_text())["id"]
    save(folder / "checkpoints", step=4, model="probe_chars", run_id=run_id, tensors=tensors, documents=documents)  # type: ignore[arg-type]
    RunFolder(folder, read_info(folder / "run.json")).update(checkpoint="step_00000004")
    run = dataclasses.replace(config.run, dir=PathText(str(folder)))  # type: ignore[attr-defined]
    train(dataclasses.replace(config, run=run), resume=True)  # type: ignore[type-var, arg-type]


FAULTS = [*(f"after_file:{i}" for i in range(1, 7)), "before_manifest", "before_rename", "after_rename", "prune"]


@pytest.mark.parametrize("kills", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_random_kills_lose_nothing_that_was_saved(kills: int, tmp_path: Path) -> None:
    """Kills at every fault point of a save and at random instants; the run always goes on from the newest complete
    checkpoint, and metrics.jsonl holds each step once, in order."""
    folder = tmp_path / "run"
    config = config_of("probe_gan", folder, "trainer.max_steps=100000", "trainer.save_every=2", "trainer.keep=2")
    rng = random.Random(0)
    reached = 0
    for trial in range(kills):
        fault = f"kill@save:{FAULTS[trial]}" if trial < len(FAULTS) else None
        pid = start_fork(lambda: train(config, resume=True), faults=fault)
        if fault is None:
            before = reached
            wait_for(lambda b=before: newest(folder) > b)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
        assert finish(pid) == -signal.SIGKILL
        now = newest(folder)
        assert now >= reached
        reached = now
        steps = [line["step"] for line in complete_lines(folder)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= reached
    config = config_of("probe_gan", folder, f"trainer.max_steps={reached + 5}", "trainer.save_every=2")
    assert forked(lambda: train(config, resume=True)) == 0
    assert [line["step"] for line in metrics(folder)] == list(range(1, reached + 6))


def newest(folder: Path) -> int:
    return max((int(p.name[5:]) for p in folder.glob("checkpoints/step_*")), default=0)


def complete_lines(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_the_run_goes_on(number: signal.Signals, code: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = config_of("gan", folder, *SMALL, "trainer.max_steps=100000", "trainer.save_every=0")
    pid = start_fork(lambda: train(endless))
    wait_for(lambda: len(complete_lines(folder)) > 3)
    assert forked(lambda: train(endless, resume=True)) == 8  # the folder is in use
    os.kill(pid, number)
    assert finish(pid) == code
    saved = newest(folder)
    assert saved == complete_lines(folder)[-1]["step"] > 0
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    assert forked(lambda: train(endless)) == 8  # holds a run: it is not overwritten
    longer = config_of("gan", folder, *SMALL, f"trainer.max_steps={saved + 3}", "trainer.save_every=0")
    assert forked(lambda: train(longer, resume=True)) == 0
    assert newest(folder) == saved + 3


def test_a_signal_during_evaluation_ends_it_early(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = config_of("probe_softmax", folder, "trainer.max_steps=100000", "trainer.eval_every=1")
    pid = start_fork(lambda: train(config))
    wait_for(lambda: len(complete_lines(folder)) > 2)
    os.kill(pid, signal.SIGTERM)
    assert finish(pid) == 143


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = config_of("probe_gan", folder, "trainer.max_steps=6", "trainer.save_every=3")
    assert forked(lambda: train(config)) == 0
    weights = last_checkpoint(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert forked(lambda: train(config, resume=True)) == 0
    for step in folder.glob("checkpoints/step_*"):
        (step / "state.json").unlink()
    assert forked(lambda: train(config, resume=True)) == CheckpointError.exit_code


def test_a_preview_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = config_of("gan", folder, *SMALL, "trainer.max_steps=2")
    train(first)
    shutil.rmtree(folder / "previews", ignore_errors=True)
    (folder / "previews").write_text("a file where the folder should be")
    api.resume(folder, "trainer.max_steps=4", "trainer.preview_every=1", console=Console(quiet=True))
    assert newest(folder) == 4


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp64"), ("fp64", "fp32")])
@pytest.mark.parametrize("model", ["gan", "probe_softmax"])
def test_a_run_goes_on_in_another_precision(model: str, before: str, after: str, tmp_path: Path) -> None:
    settings = SMALL if model == "gan" else []
    train(config_of(model, tmp_path / "run", *settings, f"dtype={before}", "trainer.max_steps=2"))
    api.resume(tmp_path / "run", f"dtype={after}", "trainer.max_steps=4", console=Console(quiet=True))
    wanted = {"fp32": torch.float32, "fp64": torch.float64}[after]
    found = contents(last_checkpoint(tmp_path / "run"))
    assert {t.dtype for name, t in found.items() if name.startswith("model:")} == {wanted}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    healthy = config_of("gan", folder, *SMALL, "trainer.max_steps=2", "trainer.save_every=1")
    train(healthy)
    with pytest.raises(GenaiError, match="not finite at step") as caught:
        api.resume(folder, "trainer.max_steps=500", "optim.lr=1e30", console=Console(quiet=True))
    assert caught.value.exit_code == 5
    assert "samples" in caught.value.what
    assert all(t.isfinite().all() for t in contents(last_checkpoint(folder)).values() if hasattr(t, "isfinite"))
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
