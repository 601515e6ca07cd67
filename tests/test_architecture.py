"""The plan of the house, kept by reading the source: imports go down, a thing has one home, files hold no code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "genai"
FILES = sorted(SOURCE.rglob("*.py"))

# From the top down; a module may import from its own layer (without circles) and from those below.
LAYERS = [
    ["cli", "__main__", "worker", "__init__"],
    ["api"],
    ["training", "samples"],
    ["trainer"],
    ["evaluation"],
    [
        "sampler",
        "text_samples",
        "writers",
        "table_files",
        "table_tasks",
        "predictions",
        "recommendations",
        "spectrogram",
        "tunes",
    ],
    ["factory", "budget", "launch", "meters", "health"],
    ["config", "search_path", "settings", "overrides"],
    [
        "models",
        "data",
        "run",
        "run_index",
        "run_info",
        "metrics_file",
        "lock",
        "checkpoint",
        "documents",
        "tensorfile",
        "device",
        "console",
    ],
    ["nets", "optim", "searches", "muon", "solvers", "lettering", "metrics"],
    ["optim_table", "registry", "cpu"],
    ["contract", "schema", "faults", "signals", "job"],
    ["errors", "columns"],
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imports_of(path: Path, *, late: bool) -> set[str]:
    """Modules of ours that a file imports, below `genai.`; with those inside functions if `late`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if late else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "genai":
            tail = node.module.partition(".")[2]
            found |= {tail} if tail else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("genai.")}
    return found - {"__version__"}


def home(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_downwards(path: Path) -> None:
    own = home(module_of(path))
    assert own in LAYER, f"{own} has no place in LAYERS"
    if own == "__init__":
        return
    for target in imports_of(path, late=True):
        assert LAYER[home(target)] >= LAYER[own], f"{own} imports {target}, which is above it"


def test_no_imports_run_in_circles() -> None:
    graph = {module_of(path): imports_of(path, late=False) for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in graph and module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def without_comments(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # docstrings may name what they explain
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


def test_devices_are_named_in_one_file() -> None:
    for path in FILES:
        if path.name != "device.py":
            assert not re.search(r"cuda|\bmps\b", without_comments(path)), path


@pytest.mark.parametrize("path", [p for p in FILES if home(module_of(p)) != "models"], ids=module_of)
def test_no_model_is_named_outside_its_home(path: Path) -> None:
    names = "gan|vae|diffusion|transformer|discriminative"
    assert not re.search(rf"['\"]({names})\b|\b({names})\.|\bGan\b", without_comments(path)), path


FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_that_is_read_can_run(path: Path) -> None:
    """No pickle, torch.load, eval, exec, yaml.load or Hydra instantiation anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {a.name for a in node.names} & FORBIDDEN, path
        if isinstance(node, ast.ImportFrom):
            assert node.module not in FORBIDDEN, path
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "instantiate"), path
            if called in ("np.load", "numpy.load"):
                allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) == "False"]
                assert allowed, f"{path}: np.load must say allow_pickle=False"


def test_configs_name_no_code() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) > 10
    for path in files:
        assert "_target_" not in path.read_text(), path


def test_source_files_stay_readable() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 520}
    assert not long, f"one idea a file: {long}"


def test_nothing_tracked_holds_a_path_of_one_machine() -> None:
    pattern = re.compile(r"/(home|root|work|Users)/[A-Za-z0-9]")
    for folder in ("src", "configs", "scripts"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".sh", ".md"):
                assert not pattern.search(path.read_text()), path
