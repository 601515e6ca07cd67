"""Data of one's own: what the path holds decides how it is read."""

from __future__ import annotations

from pathlib import Path

from genai.data import sniff
from genai.data.arrays import open_arrays
from genai.data.cifar import open_cifar10
from genai.data.folder import open_folder
from genai.data.idx import open_idx_file, open_idx_folder
from genai.data.source import Source, with_classes
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig


def open_path(config: DataConfig) -> Source:
    """Raises DataError for what is no data, ConfigError where no path is given."""
    if config.path is None:
        raise ConfigError(f"data={config.name} needs a path", fix="type data.path=PATH")
    path = sniff.existing(config.path)
    return read_path(path, config, path.resolve().name)


def read_path(path: Path, config: DataConfig, name: str) -> Source:
    kind = sniff.kind_of(path)
    if kind == "pictures":
        return open_folder(path, config, name)
    if kind == "idx_folder":
        return open_idx_folder(path, config, name)
    if kind == "idx":
        return open_idx_file(path, config, name)
    if kind == "cifar10":
        return open_cifar10(path, config, name)
    return open_arrays(path, config, name)


def read_with_names(config: DataConfig, names: tuple[str, ...]) -> Source:
    """A set of ours in another form (`data=NAME data.path=PATH`): read as it lies there, with the set's classes."""
    assert config.path is not None
    path = sniff.existing(config.path)
    source = read_path(path, config, config.name)
    if source.modality != "image":
        raise DataError(f"data={config.name} has pictures, here are {source.modality}", path=path, fix="type data=path")
    made = with_classes(source, names)
    if isinstance(made, str):
        what = f"class '{made}' is none of data={config.name}"
        raise DataError(what, path=path, fix="type data=path to read it with classes of its own")
    return made
