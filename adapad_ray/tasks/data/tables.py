"""Reading a task's rows: local files of several formats, and data sets of the Hub."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from adapad_ray.assets import cache_folder, file_digest, require_hub
from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.tasks.source import SPLITS, DataSource

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def read_tables(source: DataSource) -> tuple[dict[str, pd.DataFrame], str]:
    """The rows of every split that the source has, further tests as `test_<name>`, and a sha256 of where they are from.

    Raises:
        BadRequestError: a file or split is missing or unreadable.
        UnreachableError: they are on the Hub, which cannot be reached, or in a file that is not there.
    """
    tables = _read_files(source) if source.dataset is None else _read_hub(source)
    return tables, _digest_of(source, tables)


def name_of(source: DataSource) -> str:
    """What people call the task: the data set, or the file, or its folder where the file is just a split."""
    if source.dataset is not None:
        return f"{source.dataset}/{source.subset}" if source.subset else source.dataset
    assert source.train is not None  # checked by DataSource
    path = Path(source.train).expanduser().resolve()
    return path.parent.name if path.stem in SPLITS else path.stem


def _read_files(source: DataSource) -> dict[str, pd.DataFrame]:
    files = {split: path for split in SPLITS if (path := getattr(source, split)) is not None}
    further = {
        f"test_{name}": path for name, path in source.further_tests.items() if os.path.isfile(Path(path).expanduser())
    }
    return {split: _read_file(path, split) for split, path in (files | further).items()}


def _read_file(given: str, split: str) -> pd.DataFrame:
    import datasets

    path = Path(given).expanduser()
    if not os.path.isfile(path):  # False, not an error, where no file could have such a name
        raise UnreachableError(f"the {split} file {given!r} does not exist: pass the path of a file")
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise BadRequestError(f"the {split} file {given!r} ends in {path.suffix!r}: use one of {', '.join(_BUILDERS)}")
    options: dict[str, Any] = {}
    if builder == "csv":
        # Only an empty field is missing: 'NA' or 'None' can be somebody's text or label.
        options = {"keep_default_na": False, "na_values": [""]}
        options |= {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    with _quiet_datasets():
        try:
            table = datasets.load_dataset(
                builder,
                data_files=str(path.resolve()),
                split="train",
                cache_dir=str(cache_folder() / "datasets"),
                **options,
            )
        except (datasets.exceptions.DatasetsError, ValueError, TypeError, OSError) as error:
            reason = _first_line(error.__cause__ or error)
            raise BadRequestError(
                f"the {split} file {given!r} could not be read as {builder} ({reason}): "
                "it takes rows, all with the same columns"
            ) from error
    if any(name.startswith("__index_level_") for name in table.column_names):
        raise BadRequestError(
            f"rows of the {split} file {given!r} have more fields than its header has names: "
            "put texts that contain the separator in double quotes"
        )
    return pd.DataFrame(table.to_pandas())


def _read_hub(source: DataSource) -> dict[str, pd.DataFrame]:
    import datasets
    import huggingface_hub

    assert source.dataset is not None
    require_hub(f"data set {source.dataset!r}")
    with _quiet_datasets():
        try:
            found = datasets.load_dataset(
                source.dataset,
                source.subset,
                cache_dir=str(cache_folder() / "datasets"),
            )
        except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            reason = _first_line(error)
            offline = huggingface_hub.constants.HF_HUB_OFFLINE
            raise (UnreachableError if offline else BadRequestError)(
                f"data set {name_of(source)!r} could not be loaded from the Hub ({reason}): "
                "check the name and subset, or pass local files as train, validation and test"
            ) from error
    label = getattr(source, "label", None)
    asked = {split: getattr(source, split) for split in SPLITS}
    asked |= {f"test_{name}": split for name, split in source.further_tests.items()}
    tables = {}
    for split, wanted in asked.items():
        if (wanted or split) not in found:
            if wanted or split == "train":
                raise BadRequestError(
                    f"data set {name_of(source)!r} has no split {wanted or split!r}: available are {', '.join(found)}"
                )
            continue
        table = pd.DataFrame(found[wanted or split].to_pandas())
        # The Hub writes -1 where labels are withheld, as in GLUE's test sets.
        if wanted is None and split != "train" and label in table and (table[label].astype(str) == "-1").all():
            continue
        tables[split] = table
    return tables


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _digest_of(source: DataSource, tables: Mapping[str, pd.DataFrame]) -> str:
    digest = hashlib.sha256()
    for split, table in tables.items():
        if source.dataset is None:
            given = source.further_tests[split.removeprefix("test_")] if split not in SPLITS else getattr(source, split)
            digest.update(f"{split} {file_digest(Path(given).expanduser())}\n".encode())
        else:
            rows = table.to_json(default_handler=repr)
            digest.update(f"{split} {hashlib.sha256(rows.encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silence the progress bars and logs of datasets, and restore the user's settings."""
    import datasets

    bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs as an error it also raises
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
