"""Sets of the Hugging Face hub by name, through the library `datasets`, which downloads and keeps them."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from genai.data.parts import chosen_parts, left_out_note
from genai.data.tables import ROWS_AT_ONCE, Table, Tables
from genai.errors import DataError, SecurityError

_PATIENCE_SECONDS = 5.0


def tables_of_hub(name: str) -> Tables:
    """The set `owner/name`. Raises DataError, naming it, where it does not exist or cannot be reached, and where the
    library is not installed."""
    found = _load(name)
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    train, test, left_out = chosen_parts(splits)
    notes = [] if test is None else left_out_note(test, left_out)
    if train is None:
        train, test = next(iter(splits)), None
        notes = [f"all samples are of its part '{train}'"]
    tables = {part: _table(name, part, splits[part]) for part in (train, test) if part is not None}
    return Tables([tables[train]], [] if test is None else [tables[test]], f"hub:{name}", notes)


def _load(name: str) -> Any:
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        fix = 'pip install "genai-trainer[hub]"'
        raise DataError("hub sets are read by the library datasets, which is missing", path=name, fix=fix) from error
    reached = _reachable(huggingface_hub.constants.ENDPOINT)
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        if not reached:  # what it has kept is read; it would try for half a minute to ask for news
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        return datasets.load_dataset(name)
    except Exception as error:  # the library, and all that it calls, raise nearly everything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not reached:
            what = "the hub cannot be reached and the set is not kept here"
            fix = f"check the name (no such path is in {os.getcwd()}), the network and the proxy"
            raise DataError(what, path=f"hub:{name}", fix=fix) from error
        raise DataError(
            f"the hub set cannot be read: {reason}",
            path=f"hub:{name}",
            fix=f"check the name; no such path is in {os.getcwd()}",
        ) from error
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """One question with a short answer, through the proxy that the environment names."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _table(name: str, part: str, split: Any) -> Table:
    from datasets.table import embed_table_storage

    rows = split.with_format("arrow")

    def batches(columns: list[str]) -> Iterator[Any]:
        for table in rows.select_columns(columns).iter(batch_size=ROWS_AT_ONCE):
            _refuse_foreign_files(table, title)
            # Pictures that the library keeps as files of its own come in here, by its own rules.
            yield from embed_table_storage(table).combine_chunks().to_batches()

    stamp = str(getattr(split, "_fingerprint", os.getpid()))  # without one it is unpacked anew
    title = f"hub:{name}/{part}"
    return Table(title, title, stamp, split.features.arrow_schema, split.data.nbytes, batches)


def _refuse_foreign_files(table: Any, title: str) -> None:
    """Rows name files: those that the library keeps, and no others of this machine. Raises SecurityError."""
    import datasets
    import huggingface_hub
    import pyarrow as pa

    kept = [os.path.realpath(at) for at in (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)]
    for column in table.columns:
        if not pa.types.is_struct(column.type) or not {"bytes", "path"} <= {field.name for field in column.type}:
            continue
        for row in column.to_pylist():
            if row is None or row["bytes"] is not None or row["path"] is None or "://" in row["path"]:
                continue
            if not any(os.path.realpath(row["path"]).startswith(folder + os.sep) for folder in kept):
                what = f"a row names a file that is not of the set: '{os.path.basename(row['path'])}'"
                raise SecurityError(what, path=title, fix="do not use this set")
