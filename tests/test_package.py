"""What a user installs: a wheel that trains and samples from an empty folder, and a README whose commands work."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from genai.__main__ import run
from harness import forked

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_trains_and_samples_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "else where"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    environment = os.environ | {"PYTHONPATH": str(site)}

    def python(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    assert python("-c", "import genai; print(genai.__file__)").startswith(str(site))
    assert python("-c", "import genai.configs; print(genai.configs.__file__)").startswith(str(site))
    path = python("-m", "genai", "train", "gan", "data=digits", "net.width=8", "trainer.max_steps=2")
    out = python("-m", "genai", "sample", path, "-n", "4")
    assert (elsewhere / out / "grid.png").is_file()


def test_the_wheel_carries_licences_configs_and_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert "genai/configs/model/gan.yaml" in names
    assert any(name.startswith("genai/data/builtin/") and name.endswith(".npz") for name in names)
    assert not any("tests" in name or "__pycache__" in name for name in names)


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    """In the order of the README, in one folder with pictures of one's own, with a budget of a few steps."""
    (tmp_path / "FOLDER").mkdir()
    for i in range(8):
        Image.new("RGB", (40 + i, 36), (30 * i, 0, 0)).save(tmp_path / "FOLDER" / f"{i}.png")
    for i in range(24):
        (tmp_path / f"CLASSES/{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 10 * i).save(tmp_path / f"CLASSES/{i % 2}/{i}.png")
    Image.new("L", (28, 28), 255).save(tmp_path / "MASK.png")
    (tmp_path / "BOOK.txt").write_text("".join(f"In chapter {i} nothing happens.\n" for i in range(200)))
    (tmp_path / "TUNES.txt").write_text("\n".join(f"X:{i}\nM:4/4\nL:1/8\nK:G\nGABc d2ef|g8|\n" for i in range(100)))
    talk = [{"prompt": f"what is {i}?", "response": f"{i} is a number."} for i in range(100)]
    (tmp_path / "DIALOGUE.jsonl").write_text("\n".join(map(json.dumps, talk)))
    reviews = [f"{('neg', 'pos')[i % 2]},Number {i} is {('bad', 'good')[i % 2]}." for i in range(200)]
    (tmp_path / "REVIEWS.csv").write_text("\n".join(["label,text", *reviews]))
    both = [f"{i % 3} comes,{i % 2} comes,{('no', 'yes')[i % 3 == i % 2]}" for i in range(60)]
    (tmp_path / "PAIRS.csv").write_text("\n".join(["first,second,same", *both]))
    (tmp_path / "MOLECULES.csv").write_text("\n".join(["smiles,expt", *(f"{'C' * i}O,{i / 2}" for i in range(1, 40))]))
    rows = [f"{('plain', 'rare', 'odd')[i % 3]},{('Beijing', 'Ulm')[i % 2]},{i / 4},{i * i % 37}" for i in range(90)]
    (tmp_path / "TABLE.csv").write_text("\n".join(["kind,city,size,price", *rows]) + "\n")
    (tmp_path / "HOLES.csv").write_text("kind,city,size,price\nplain,,3.5,\n,Ulm,,7\n")
    had = [f"{('USER', 'ANN', 'BEN')[i % 3]},{i * i % 11}" for i in range(24)]
    (tmp_path / "RATINGS.csv").write_text("\n".join(["user,item", *dict.fromkeys(had)]))
    (tmp_path / "ITEMS.csv").write_text("\n".join(["item,title", *(f"{i},Number {i}" for i in range(11))]))
    commands, told = readme_commands(), tmp_path / "told.txt"
    assert sum(command.startswith("genai ") for command in commands) >= 5
    for command in commands:
        words = shlex.split(re.sub(r"max_steps=\d+", "max_steps=3", command))
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M), command
        elif words[0] == "genai":
            if words[1] in ("train", "resume") and not any("max_steps" in word for word in words):
                words.append(f"trainer.max_steps={3 if words[1] == 'train' else 5}")
            if words[1:3] == ["train", "transformer"]:
                words += ["net.layers=1", "net.width=32", "net.heads=2"]
            if words[1:3] == ["train", "diffusion"]:
                heads = [] if "data.path=TABLE.csv" in words else ["net.head_width=8"]
                words += ["net.width=8", *heads, "sampling.steps=4"]
            if words[1] in ("train", "resume", "sample", "eval"):
                words.append("threads=1")
            if words[1] in ("train", "sample"):
                words.append("sampling.batch_size=4")
            assert forked(partial(in_folder, words[1:], tmp_path, told)) == 0, told.read_text()


def in_folder(arguments: list[str], folder: Path, told: Path) -> None:
    """Runs a command line in a process of its own that has torch at hand, and ends that."""
    os.chdir(folder)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, number)
        setattr(sys, name, os.fdopen(os.dup(number), "w"))
    print(*arguments, flush=True)
    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert block is not None
    code = block[1].replace("trainer.max_minutes=1", "trainer.max_steps=2")
    assert code != block[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("runs/gan/*/samples/*/0*.png"))) == 16


def test_the_error_lines_of_the_readme_are_those_that_are_told(tmp_path: Path) -> None:
    block = re.search(r"```\n\$ genai (.*?)\n(error: .*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert block is not None
    done = subprocess.run(
        [sys.executable, "-m", "genai", *shlex.split(block[1])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == block[2]


def test_the_sweep_script_prints_the_table(tmp_path: Path) -> None:
    environment = os.environ | {
        "LRS": "1e-3,1e-4",
        "LOSSES": "hinge",
        "SEEDS": "0",
        "GENAI_RUNS": str(tmp_path / "runs"),
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(ROOT / "scripts" / "sweep.sh"), "gan", "digits", "net.width=8", "trainer.max_steps=3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if "finished" in line]
    assert len(table) == 2
    assert all("pair_sign" in line for line in table)


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("trainer_overhead", ["--rounds=1", "--steps=20"]),
        ("checkpoint_speed", ["--rounds=1", "--megabytes=4"]),
        ("streaming", ["--rounds=1", "--pictures=100", "--side=80"]),
    ],
)
def test_the_measuring_scripts_run(name: str, small: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/bench" / f"{name}.py"), *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "limit" in done.stdout, done.stderr
    assert done.stderr == ""  # what it measured at this size is not judged


def test_the_bench_of_the_gan_runs_or_says_what_it_needs(tmp_path: Path) -> None:
    small = ["--rounds=1", "--steps=1", "--width=8", "--batch=4"]
    command = [sys.executable, str(ROOT / "scripts/bench/gan_speed.py"), *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if importlib.util.find_spec("torch_mimicry") is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert "pip install --no-deps torch-mimicry" in done.stdout
    else:
        assert re.search(r"same networks, (bf16|fp32): \d+ ms, [\d.]+ times as fast", done.stdout), done.stderr


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_judge_prefers_real_pictures_to_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", samples=noise, labels=np.arange(300) % 10)
    judge = script("judge")
    monkeypatch.setattr(judge, "PASSES_OVER_FEW", 5)  # enough to tell these
    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "kept"))
    monkeypatch.setattr(sys, "argv", ["judge.py", "data=digits", str(tmp_path / "noise.npz")])
    printed = []
    for _ in range(2):
        judge.main()
        printed.append(capsys.readouterr().out)
    rows = [line.split() for line in printed[0].splitlines() if line.startswith(" ")]
    (real, real_right), (drawn, drawn_right) = ((float(row[0]), float(row[1])) for row in rows[1:])
    assert drawn > 5 * real
    assert real_right > drawn_right + 0.3
    assert rows[2][2] == "0.0000"  # copies nothing
    assert printed[0].splitlines()[1:] == printed[1].splitlines()  # the second time it is read back


def test_the_script_that_counts_modes_prints_a_line_for_each_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(*arguments: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert run([*arguments, "--quiet"]) == 0

    modes = script("modes")
    monkeypatch.setattr(modes, "genai", in_this_process)
    monkeypatch.setattr(sys, "argv", ["modes.py", "gan", "seed=3", "trainer.max_steps=2", "threads=1"])
    modes.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["grid25", "3", "2"], ["ring8", "3", "2"]]


def test_a_sweep_makes_a_run_for_every_combination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "gan",
        "data=digits",
        "net.width=8",
        "-m",
        "optim.lr=1e-3,1e-4",
        "seed=0,1",
        "trainer.max_steps=8",
        "threads=1",
    ]
    monkeypatch.chdir(tmp_path)
    assert run(words) == 0
    capfd.readouterr()
    assert run(["runs", "list", "--json"]) == 0
    runs = json.loads(capfd.readouterr().out)
    assert len(runs) == 4
    assert all(found["status"] == "finished" and found["steps"] == 8 for found in runs)
    assert all("valid/pair_sign" in found["metrics"] for found in runs)
