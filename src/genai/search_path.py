"""Where YAML is found: the shipped configs, folders given with -C, ./genai_configs, the packages of plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from genai.errors import ConfigError
from genai.registry import config_packages
from genai.schema import unknown

SHIPPED = "genai.configs"
LOCAL = Path("genai_configs")
GROUPS = ("model", "data", "net", "optim", "trainer", "sampling", "experiment")


@dataclass(frozen=True)
class SearchPath:
    """Folders of configs, the shipped one first: a file found earlier hides a later one of the same name."""

    given: tuple[Path, ...] = ()

    @classmethod
    def of(cls, config_dirs: Sequence[Path] = ()) -> SearchPath:
        """Raises ConfigError for a folder that is not there."""
        for folder in config_dirs:
            if not Path(folder).is_dir():
                raise ConfigError("--config-dir needs a folder, this is none", path=folder, fix="type -C FOLDER")
        local = (LOCAL,) if LOCAL.is_dir() else ()
        return cls(tuple(Path(folder).absolute() for folder in (*config_dirs, *local)))

    @cached_property
    def packages(self) -> list[str]:
        return config_packages()

    @cached_property
    def folders(self) -> list[Path]:
        return [_package_folder(SHIPPED), *self.given, *(_package_folder(name) for name in self.packages)]

    def urls(self) -> list[str]:
        """What Hydra is told to search after the shipped configs."""
        return [f"file://{folder}" for folder in self.given] + [f"pkg://{name}" for name in self.packages]

    def options(self, group: str) -> dict[str, Path]:
        """Name -> file of every choice of a group; presets are named MODEL/NAME."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for file in sorted((folder / group).rglob("*.yaml")):
                found.setdefault(file.relative_to(folder / group).with_suffix("").as_posix(), file)
        return found

    def file(self, group: str, name: str) -> Path | None:
        candidates = (folder / group / f"{name}.yaml" for folder in self.folders)
        return next((file for file in candidates if file.is_file()), None)

    def shadowed(self) -> list[tuple[Path, Path]]:
        """(ignored file, file that wins) for every file with the name of one found earlier."""
        seen: dict[Path, Path] = {}
        hidden: list[tuple[Path, Path]] = []
        for folder in self.folders:
            for file in sorted(folder.rglob("*.yaml")):
                winner = seen.setdefault(file.relative_to(folder), file)
                if winner is not file:
                    hidden.append((file, winner))
        return hidden


def where(choice: str, config_dirs: Sequence[Path] = ()) -> Path:
    """The file that GROUP=NAME, or the name of a root (train, sample, eval), reads."""
    search = SearchPath.of(config_dirs)
    group, equals, name = choice.partition("=")
    if not equals:
        roots = {file.stem: file for file in sorted(search.folders[0].glob("*.yaml"))}
        if choice in roots:
            return roots[choice]
        raise ConfigError(f"'{choice}' names no file of configs", fix="type GROUP=NAME, as in optim=adam")
    if group not in GROUPS:
        raise unknown("group", group, GROUPS)
    options = search.options(group)
    if name not in options:
        raise unknown(f"choice of {group}", name, options)
    return options[name]


def summary(file: Path) -> str:
    """The first comment of a YAML that is no directive: what it is."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            text = line.lstrip("# ").strip()
            if text and not text.startswith("@package"):
                return text
    return ""


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package '{name}' of configs cannot be found", fix="reinstall the plug-in")
    return Path(next(iter(spec.submodule_search_locations)))
