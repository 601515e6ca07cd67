"""Data of one's own: what the path holds decides how it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from genai import registry
from genai.data import sniff
from genai.data.arrays import open_arrays
from genai.data.cifar import open_cifar10
from genai.data.documents import corpus_of_tables
from genai.data.folder import list_folder
from genai.data.hub import tables_of_hub
from genai.data.idx import open_idx_file, open_idx_folder
from genai.data.listed import PICTURES, SOUNDS, Listed, open_listed
from genai.data.parquet import tables_of_parquet
from genai.data.passages import Passages, open_passages, passages_of_tables
from genai.data.records import TableRows, are_texts
from genai.data.sheet import Sheet
from genai.data.source import NOUNS, Corpus, Source, asks_for_table, asks_for_text, modality_of, with_classes
from genai.data.tables import Tables, has_pictures, list_tables
from genai.data.tabular import open_sheet, sheet_of_tables
from genai.data.tar import list_tars
from genai.data.texts import open_corpus
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig, plain

_LISTERS: dict[sniff.Kind, Callable[[Path], Listed]] = {
    "pictures": partial(list_folder, medium=PICTURES),
    "sounds": partial(list_folder, medium=SOUNDS),
    "tar": list_tars,
}


def open_path(config: DataConfig) -> Source | Corpus | Sheet | Passages:
    """Raises DataError for what is no data, ConfigError where no path is given."""
    if config.path is None:
        raise ConfigError(f"data={config.name} needs a path", fix="type data.path=PATH")
    name = name_of(config)
    found = _listed_or_tables(config)
    if isinstance(found, Sheet):
        return found
    if isinstance(found, Tables):
        return (corpus_of_tables if config.target is None else passages_of_tables)(found, config, name)
    if found is not None:
        return open_listed(found, config, name)
    path = sniff.existing(config.path)
    kind = sniff.kind_of(path)
    asked = plain(config)
    as_text, as_table = asks_for_text(asked), asks_for_table(asked)
    if kind == "csv" and modality_of(config.name, config.path, as_text=as_text, as_table=as_table) == "table":
        return open_sheet(path, config, name)
    if kind in ("text", "records", "csv"):
        return open_corpus(config, name) if config.target is None else open_passages(path, config, name)
    if kind == "idx_folder":
        return open_idx_folder(path, config, name)
    if kind == "idx":
        return open_idx_file(path, config, name)
    if kind == "cifar10":
        return open_cifar10(path, config, name)
    return open_arrays(path, config, name)


def name_of(config: DataConfig) -> str:
    """What the set is called: its own name, or that of the path or of the hub set."""
    if config.name != "path" or config.path is None:
        return config.name
    return sniff.hub_name(config.path) or sniff.existing(config.path).resolve().name


def list_samples(config: DataConfig) -> Listed | None:
    """The files of a set that has one for each sample; None for another kind of data. Raises DataError."""
    found = _listed_or_tables(config)
    return None if isinstance(found, Tables | Sheet) else found


def _listed_or_tables(config: DataConfig) -> Listed | Tables | Sheet | None:
    """The files of a set that has one for each sample, the tables of one whose rows are texts, or one of values."""
    if config.path is None:
        return None
    hub = sniff.hub_name(config.path)
    path = Path(config.path) if hub is not None else sniff.existing(config.path)
    if hub is None and (kind := sniff.kind_of(path)) != "parquet":
        lister = _LISTERS.get(kind)
        return None if lister is None else lister(path)
    tables = tables_of_parquet(path) if hub is None else tables_of_hub(hub)
    if asks_for_text(plain(config)):
        return tables
    if has_pictures(tables.trains[0]):
        return list_tables(tables)
    is_text = not asks_for_table(plain(config)) and are_texts(TableRows(tables.trains))
    return tables if is_text else sheet_of_tables(tables, config, name_of(config))


def read_with_names(config: DataConfig, names: tuple[str, ...]) -> Source:
    """A set of ours in another form (`data=NAME data.path=PATH`): read as it lies there, with the set's classes."""
    assert config.path is not None
    source = open_path(config)
    own = registry.find("data", config.name).modality
    if not isinstance(source, Source) or source.modality != own:
        kind = source.modality if isinstance(source, Source) else "table" if isinstance(source, Sheet) else "text"
        what = f"data={config.name} has {NOUNS[own]}, here are {NOUNS[kind]}"
        raise DataError(what, path=config.path, fix="type data=path")
    made = with_classes(source, names)
    if isinstance(made, str):
        what = f"class '{made}' is none of data={config.name}"
        raise DataError(what, path=config.path, fix="type data=path to read it with classes of its own")
    return made
