"""The command line as its users meet it: verbs, what goes to stdout, error lines and exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai import api
from genai.__main__ import run
from genai.cli.failures import of_usage
from genai.console import Console, Progress, clock, table_text
from genai.errors import ConfigError

SMALL = ["data=ring8", "threads=1", "trainer.max_steps=4", "trainer.preview_every=0", "net.width=8", "net.layers=1"]
Captured = pytest.CaptureFixture[str]


def genai_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As the installed script runs: `python -m` would put the current folder on the path."""
    command = [sys.executable, "-P", "-m", "genai", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def genai(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genai", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with one finished run, `first`."""
    root = tmp_path_factory.mktemp("place") / "runs"
    assert run(["train", "gan", *SMALL, "optim.lr=0.25", f"run.root={root}", "run.name=first", "--quiet"]) == 0
    return root


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained.parent)
    return trained.parent


# -- what a user gets --------------------------------------------------------------------------------------------------


def test_train_prints_the_run_last_on_stdout_and_the_rest_on_stderr(place: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.dir=own 目录, (x)=#~"]) == 0
    out, err = capfd.readouterr()
    assert out == "own 目录, (x)=#~\n"
    assert (place / "own 目录, (x)=#~" / "run.json").is_file()
    assert "step 4" in err
    assert err.count("step 4,") == 1  # the last state is told once


def test_train_json_is_the_object_of_run_json(place: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.dir=as_json", "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    printed, written = json.loads(out), json.loads((place / "as_json/run.json").read_text())
    assert {key: value for key, value in printed.items() if key != "path"}.items() <= written.items()
    assert printed["status"] == "finished"
    assert err == ""


def test_verbs_on_a_run_take_its_name_its_path_or_nothing(place: Path, capfd: Captured) -> None:
    for number, reference in enumerate((["first"], ["runs/gan/first"], [])):
        assert run(["sample", *reference, "-n", "3", "--out", f"out{number}", "--quiet", "sampling.batch_size=2"]) == 0
        assert capfd.readouterr().out == f"out{number}\n"
        assert json.loads((place / f"out{number}/samples.json").read_text())["count"] == 3
    assert run(["eval", "first", "--json", "--quiet"]) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["data"] == "ring8"
    assert (place / "runs/gan/first/eval/ring8.json").is_file()


def test_resume_goes_on_with_changed_settings(place: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.name=longer", "--quiet"]) == 0
    assert run(["resume", "longer", "trainer.max_steps=6", "--json"]) == 0
    out, err = capfd.readouterr()
    record = json.loads(out.splitlines()[-1])
    assert (record["steps"], record["changes"][0]["key"]) == (6, "trainer.max_steps")
    assert "trainer.max_steps" in err
    assert run(["resume", "longer", "model.latent_dim=3"]) == 2
    assert "cannot change from 2 to 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    "mistake",
    [
        "device=tpu",
        "data.path=bad",
        "trainer.stop_metric=mse",
        "trainer.patience=2",
        "trainer.devices=500",
    ],
)
def test_a_run_that_never_began_leaves_its_place_free(mistake: str, workplace: Path, capfd: Captured) -> None:
    folder = workplace / "mended"
    (workplace / "bad").mkdir()
    (workplace / "bad/a.png").write_text("no picture")
    arguments = [a for a in SMALL if not a.startswith(("data=", "net."))] if "path" in mistake else SMALL
    assert run(["train", "gan", *arguments, f"run.dir={folder}", mistake]) in (2, 3)
    assert not folder.exists()
    assert run(["train", "gan", *SMALL, f"run.dir={folder}", "--quiet"]) == 0


@pytest.mark.parametrize(
    "mistake",
    [
        "device=tpu",
        "trainer.max_stps=9",
        "data.path=/nowhere",
        "trainer.stop_metric=mse",
        "trainer.patience=2",
        "trainer.accumulate=1000",
    ],
)
def test_a_mistake_when_a_run_goes_on_changes_nothing_in_it(mistake: str, place: Path, capfd: Captured) -> None:
    if not (place / "runs/gan/kept").exists():
        assert run(["train", "gan", *SMALL, "run.name=kept", "--quiet"]) == 0
    folder = place / "runs/gan/kept"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(["resume", "kept", mistake, "trainer.max_steps=5"]) in (2, 3)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_without_an_end_is_refused_before_it_begins(workplace: Path, capfd: Captured) -> None:
    assert run(["train", "gan", "trainer.max_minutes=null", "--dry-run"]) == 2
    assert "no end is set" in capfd.readouterr().err


def test_the_folder_of_the_data_is_no_place_for_a_run(workplace: Path, capfd: Captured) -> None:
    (workplace / "pictures").mkdir()
    (workplace / "pictures/a.png").write_bytes(b"")
    assert run(["train", "gan", "data.path=pictures", "run.dir=./pictures", "--dry-run"]) == 2
    assert "previews would become data" in capfd.readouterr().err


def test_a_run_whose_budget_is_used_up_says_what_to_type(place: Path, capfd: Captured) -> None:
    assert run(["resume", "first"]) == 0
    assert "genai resume runs/gan/first trainer.max_steps=8" in capfd.readouterr().err


def test_more_minutes_do_not_go_on_at_a_rate_of_zero(workplace: Path, capfd: Captured) -> None:
    timed = [argument for argument in SMALL if "max_steps" not in argument]
    assert run(["train", "gan", *timed, "trainer.max_minutes=0.02", "run.dir=timed", "--quiet"]) == 0
    lines = (workplace / "timed/metrics.jsonl").read_text().splitlines()
    assert run(["resume", "timed", "trainer.max_minutes=0.04", "--quiet"]) == 0
    later = [json.loads(line) for line in (workplace / "timed/metrics.jsonl").read_text().splitlines()[len(lines) :]]
    assert all(line["lr/generator"] > 1e-4 for line in later[: len(later) // 2])


def test_other_data_is_evaluated_whole_and_in_the_units_of_the_model(place: Path, capfd: Captured) -> None:
    np.savez(place / "other.npz", x=np.random.default_rng(0).normal(5, 3, (50, 2)).astype(np.float32))
    assert run(["eval", "first", "--input", "other.npz", "--json", "--quiet"]) == 0
    assert json.loads(capfd.readouterr().out)["num_held_out"] == 50
    assert run(["eval", "first", "--json", "--quiet"]) == 0
    assert json.loads(capfd.readouterr().out)["num_held_out"] == 10_000


def test_data_that_changed_since_training_are_not_evaluated_as_held_out(workplace: Path, capfd: Captured) -> None:
    text = Path("text.txt")
    text.write_text("to be, or not to be: that is the question. " * 100)
    small = ["net.layers=1", "net.width=32", "net.heads=2", "sampling.max_tokens=8", "trainer.max_steps=2"]
    assert run(["train", "transformer", "data.path=text.txt", "data.context=16", *small, "run.dir=r", "--quiet"]) == 0
    assert run(["eval", "r", "--quiet"]) == 0
    text.write_text(text.read_text()[:3000])
    capfd.readouterr()
    assert run(["eval", "r", "--quiet"]) == 3
    assert "not what this run was trained on" in capfd.readouterr().err
    text.rename("other.txt")
    assert run(["eval", "r", "--input", "other.txt", "--quiet"]) == 0


@pytest.mark.parametrize("flags", [["--label", "a"], ["-n", "3"], ["--task", "vary"], ["--json"], ["--out", "x"]])
def test_a_conversation_takes_no_flags_of_samples(place: Path, capfd: Captured, flags: list[str]) -> None:
    assert run(["sample", "first", "--chat", *flags]) == 2
    assert f"{flags[0]} says nothing to a conversation" in capfd.readouterr().err


def test_eval_of_a_checkpoint_leaves_it_as_it_is(place: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "runs/gan/first/checkpoints")
    assert run(["eval", "step_00000004", "--quiet"]) == 0
    capfd.readouterr()
    assert run(["sample", "step_00000004", "-n", "1", "--quiet", "--json"]) == 0
    assert Path(json.loads(capfd.readouterr().out)["folder"]).parent.samefile(place / "runs/gan/first/samples")
    shutil.copytree("step_00000004", place / "alone")
    assert run(["eval", str(place / "alone")]) == 0
    assert "not kept" in capfd.readouterr().err
    assert run(["sample", str(place / "alone"), "-n", "1", "--out", str(place / "from_alone"), "--quiet"]) == 0
    assert run(["sample", str(place / "alone"), "--step", "3", "--out", str(place / "unclear")]) == 2
    record = json.loads((place / "runs/gan/first/samples").glob("*/samples.json").__next__().read_text())
    assert record["run"] == "first"


def test_a_run_may_be_called_as_a_checkpoint_is(workplace: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.dir=step_one", "--quiet"]) == 0
    assert run(["sample", "step_one", "-n", "1", "--quiet"]) == 0


def test_samples_of_an_earlier_call_do_not_stay_among_the_new(place: Path, capfd: Captured) -> None:
    (place / "same").mkdir()
    (place / "same/mine.png").write_text("mine")
    for count in ("5", "2"):
        assert run(["sample", "first", "-n", count, "--out", "same", "--quiet"]) == 0
        record = json.loads((place / "same/samples.json").read_text())
        (place / "same/samples.json").write_text(json.dumps({**record, "files": [*record["files"], "mine.png"]}))
    rows = (place / "same/samples.csv").read_text().splitlines()
    assert len(rows) == 1 + 2
    assert (place / "same/mine.png").exists()
    assert run(["sample", "first", "--label", "3", "--out", "never", "--quiet"]) == 2
    assert not (place / "never").exists()


def test_a_variable_of_another_launcher_changes_nothing(workplace: Path) -> None:
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "oh no"}
    done = genai("train", "gan", *SMALL, "run.dir=ranked", env=environment)
    assert done.returncode == 0, done.stderr
    assert list((workplace / "ranked/checkpoints").glob("step_*"))
    done = genai("train", "gan", *SMALL, env={**environment, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"})
    assert done.returncode == 2
    assert "trainer.devices=2" in done.stderr


def test_a_module_of_the_current_folder_is_not_run(workplace: Path) -> None:
    (workplace / "random.py").write_text("open('canary', 'w')")
    done = genai_script("train", "gan", *SMALL, "trainer.devices=2", "trainer.batch_size=8", "run.dir=two")
    assert done.returncode == 0, done.stderr
    assert not (workplace / "canary").exists()


def test_a_folder_that_holds_a_run_is_refused(place: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.name=first"]) == 8
    assert capfd.readouterr().err.startswith("error: ")


def test_runs_are_listed_shown_compared_and_removed(place: Path, capfd: Captured) -> None:
    assert run(["train", "gan", *SMALL, "run.name=second", "optim.lr=0.5", "--quiet"]) == 0
    capfd.readouterr()
    assert run(["runs"]) == 0
    assert "runs/gan/first" in capfd.readouterr().out
    assert run(["runs", "list", "--json"]) == 0
    assert {"first", "second"} <= {record["name"] for record in json.loads(capfd.readouterr().out)}
    assert run(["runs", "diff", "first", "second", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["optim.lr"] == [0.25, 0.5]
    assert run(["runs", "show", "second", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["steps"] == 4
    assert run(["runs", "rm", "second"]) == 0
    assert not (place / "runs/gan/second").exists()
    assert (place / "runs/gan/first").exists()
    assert run(["runs", "show", "second"]) == 4


def test_inspect_reads_a_checkpoint_without_torch(place: Path) -> None:
    script = "import sys; from genai.__main__ import run; code = run(['inspect', 'first', '--json']); "
    done = subprocess.run(
        [sys.executable, "-c", script + "sys.exit(code or 'torch' in sys.modules)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["step"] == 4
    assert set(content["tensors"]) >= {"model"}
    assert set(content["files"]) >= {"model.safetensors", "state.json"}


def test_names_settings_and_data_are_shown(place: Path, capfd: Captured) -> None:
    assert run(["list", "models", "--json"]) == 0
    assert "gan" in {row["name"] for row in json.loads(capfd.readouterr().out)}
    for arguments in (
        ["list"],
        ["data"],
        ["data", "show", "digits"],
        ["config", "schema"],
        ["config", "where", "net=mlp"],
    ):
        assert run(arguments) == 0
        assert capfd.readouterr().out.strip()
    assert run(["config", "show", "gan", "optim.lr=0.25", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["optim"]["lr"] == 0.25
    assert run(["data", "check", "ring8", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["good"] is True
    assert run(["data", "check", "nowhere"]) == 3


# -- sweeps ------------------------------------------------------------------------------------------------------------


def test_a_sweep_prints_a_table_and_the_exit_code_of_its_first_failure(place: Path, capfd: Captured) -> None:
    sweep = ["train", "gan", *SMALL, "-m", "run.root=swept", "seed=0,1"]
    assert run([*sweep, "optim.lr=1e-3"]) == 0
    out = capfd.readouterr().out
    assert out.count("swept/gan/") == 2
    assert "seed=1" in out
    assert "null" not in out  # what was typed, not what it replaces
    assert run(["train", "gan", *SMALL, "-m", "seed=0,1", "run.name=same"]) == 2
    assert "every job of the sweep" in capfd.readouterr().err
    assert run(["train", "gan", "-m", "data.path=/nope,/nope2"]) == 3
    assert capfd.readouterr().err.count("error: there is no such file") == 2
    # The second job's metric is none: a mistake that only the model can show.
    assert run(["train", "gan", *SMALL, "-m", "run.root=failing", "trainer.stop_metric=pair_sign,mse"]) == 2
    out, err = capfd.readouterr()
    assert out.count("failing/gan/") == 1
    assert "error: " in err
    assert "1 of 2 jobs failed" in err
    assert "stopped" not in err


def test_a_sweep_that_goes_on_skips_what_is_done(place: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ["train", "gan", *SMALL, "-m", "--resume", "--json"]
    monkeypatch.setenv("GENAI_RUNS", "again")
    assert run([*sweep, "seed=0,1"]) == 0
    first = json.loads(capfd.readouterr().out)
    assert run([*sweep, "seed=1,2"]) == 0
    second = json.loads(capfd.readouterr().out)
    assert second[0]["path"] == first[1]["path"]
    assert second[1]["path"] not in {record["path"] for record in first}
    assert run([*sweep, "seed=0", "run.root=elsewhere"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["path"].startswith("elsewhere/")


# -- mistakes in flags and verbs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "unknown verb 'trian' - did you mean 'train'?"),
        (["train", "gan", "--dryrun"], "unknown flag '--dryrun' - did you mean '--dry-run'?"),
        (["train", "gan", "--max-steps", "3"], "type trainer.max_steps=VALUE"),
        (["train"], "needs MODEL"),
        (["sample", "--seed", "x"], "--seed"),
        (["sample", "-n", "0"], "-n"),
        (["sample", "-n", "few"], "expected a whole number"),
        (["sample", "first", "seed=1"], "type --seed 1"),
        (["eval", "first", "seed=1"], "unknown key 'seed'"),
        (["sample", "--format", "gif"], "--format"),
        (["sample", "--label"], "--label"),
        (["runs", "lst"], "did you mean 'list'?"),
        (["list", "modles"], "models"),
        (["--versio"], "did you mean '--version'?"),
        (["train", "gan", "--jsn", "--quit"], "unknown flag '--quit' - did you mean '--quiet'?"),
        (["train", "gan", "a", "b=1"], "expected KEY=VALUE"),
        (["inspect", "a", "b"], "error: "),
    ],
)
def test_a_mistake_in_a_flag_is_a_line_with_exit_code_2(arguments: list[str], told: str, capfd: Captured) -> None:
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert told in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("verb", "arguments", "options"),
    [
        ("train", [3], {}),
        ("train", ["gan", 5], {}),
        ("sample", ["first"], {"count": "x"}),
        ("sample", ["first"], {"count": 1.5}),
        ("sample", ["first"], {"count": True}),
        ("sample", ["first"], {"seed": 1.5}),
        ("sample", ["first"], {"labels": 3}),
        ("sample", ["first"], {"labels": []}),
        ("sample", ["first"], {"format": "gif"}),
        ("sample", [7], {}),
        ("evaluate", ["first", 7], {}),
    ],
)
def test_a_wrong_argument_from_python_is_an_error_of_ours(
    verb: str, arguments: list[Any], options: dict[str, Any], place: Path
) -> None:
    with pytest.raises(ConfigError):
        getattr(api, verb)(*arguments, **options)


def test_an_empty_folder_is_no_run(workplace: Path, capfd: Captured) -> None:
    (workplace / "empty").mkdir()
    for verb in ("sample", "resume", "eval", "inspect"):
        assert run([verb, "empty"]) == 4
        assert capfd.readouterr().err.startswith("error: ")


def test_debug_shows_the_traceback_and_only_then(capfd: Captured) -> None:
    assert run(["train", "gan", "optim.lr=x", "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err
    assert run(["train", "gan", "optim.lr=x"]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_is_a_traceback_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.setattr("genai.config.compose_train", lambda *_: 1 // 0)
    assert run(["train", "gan", "--dry-run"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_usage_error_without_a_context_is_told_too() -> None:
    import typer

    assert "odd" in str(of_usage(typer.BadParameter("odd")))


def test_an_ignored_file_of_a_config_folder_is_warned_of(workplace: Path, capfd: Captured) -> None:
    for name in ("sgd", "mine"):
        path = workplace / f"more/optim/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("name: sgd\nlr: 9.0\n")
    assert run(["train", "gan", "-C", "more", "optim=mine", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert "optim/sgd.yaml is ignored" in err
    assert "mine.yaml is ignored" not in err
    assert "name: sgd" in out


# -- streams and signals -----------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error() -> None:
    script = f"{sys.executable} -m genai config schema | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("0")
    assert done.stderr == ""


def test_a_full_disk_behind_stdout_is_exit_code_7() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "genai", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 7
    assert done.stderr.startswith("error: ")


def test_a_terminal_without_utf8_gets_escapes(workplace: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}
    done = genai("train", "gan", "--dry-run", "run.name=图", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u56fe" in done.stdout
    wrong = genai("train", "gan", "optim.图=1", env=environment)
    assert wrong.returncode == 2


def test_closed_streams_are_no_error(workplace: Path) -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m genai train gan --dry-run >&- 2>&-"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_its_exit_code(number: signal.Signals, workplace: Path) -> None:
    endless = [argument for argument in SMALL if "max_steps" not in argument]
    command = [sys.executable, "-m", "genai", "train", "gan", *endless, "run.dir=stopped", "trainer.log_seconds=0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while ": step " not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    told = process.stderr.read()
    assert process.wait(60) == 128 + number
    assert "genai resume stopped" in told
    assert "error:" not in told
    assert "Traceback" not in told
    assert list((workplace / "stopped/checkpoints").glob("step_*"))


# -- the console -------------------------------------------------------------------------------------------------------

PROGRESS = Progress(120, 7680, 12.0, 0.4, 18.0, 640.0, 3 << 20, {"a/score": 2.0, "a/loss": 0.5})


class Lines:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_lines_come_every_log_seconds_and_the_last_state_always() -> None:
    stream = Lines()
    console = Console(log_seconds=1000, stream=stream)  # type: ignore[arg-type]
    console.start("gan on digits")
    for step in range(5):
        console.progress(Progress(step, step, 1.0))
    assert stream.text.count("\n") == 1
    console.stop()
    console.stop()
    assert [line.split(",")[0] for line in stream.text.splitlines()] == [
        "gan on digits: step 0",
        "gan on digits: step 4",
    ]


def test_a_quiet_console_warns_only() -> None:
    stream = Lines()
    console = Console(quiet=True, stream=stream)  # type: ignore[arg-type]
    console.note("note")
    console.progress(PROGRESS)
    console.warn("careful")
    console.stop()
    assert stream.text == "warning: careful\n"


def test_on_a_terminal_there_is_one_block_that_does_not_scroll() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        console = Console(stream=terminal)
        console.start("gan on digits")
        for step in range(3):
            console.progress(Progress(step, 64 * step, 1.0, step / 3, 2.0, 640.0, 0, {"a/loss": 0.5}))
            time.sleep(0.21)
        console.note("a note above")
        console.stop()
        written = ""
        while select.select([master], [], [], 0.2)[0]:  # one read gives what the line discipline has at hand
            written += os.read(master, 1 << 16).decode()
    os.close(master)
    assert "\x1b[" in written
    assert "\n" in written
    assert written.count("\x1b[1A") >= 2  # drawn over itself
    assert "a note above" in written


def test_a_console_whose_stream_is_gone_stays_silent() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(os.dup(write), "w", buffering=1) as gone:
        console = Console(stream=gone, log_seconds=0)
        console.note("x")
        console.progress(PROGRESS)
        console.stop()
        os.dup2(os.open(os.devnull, os.O_WRONLY), gone.fileno())
    os.close(write)


def test_a_table_counts_wide_characters_as_two() -> None:
    text = table_text("", [{"name": "图片", "n": 1}, {"name": "abcde", "n": 22}])
    assert text.splitlines() == ["name    n", "图片    1", "abcde  22"]
    assert table_text("runs", []) == "runs: none"
    assert clock(3725.9) == "1:02:05"
    assert clock(float("inf")) == "over 99 days"
