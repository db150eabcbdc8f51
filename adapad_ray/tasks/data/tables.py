"""Reading rows: local files of several formats, and data sets of the Hub."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from adapad_ray.assets import cache_folder, file_digest, require_hub
from adapad_ray.errors import BadRequestError, UnreachableError

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


class Tables(NamedTuple):
    """The rows of a task as they were found."""

    name: str
    """Of the data, for people."""
    splits: dict[str, pd.DataFrame]
    """`train`, `validation` and `test` as far as there are any, further tests as `test_<name>`."""
    digest: str
    """sha256 over the files, or over the rows where they come from the Hub."""


def read_files(name: str, files: Mapping[str, str]) -> Tables:
    """Reads one file per split.

    Raises:
        BadRequestError: a file cannot be read.
        UnreachableError: a file does not exist.
    """
    splits = {split: _read_file(path, split) for split, path in files.items()}
    digest = hashlib.sha256()
    for split, path in files.items():
        digest.update(f"{split} {file_digest(Path(path).expanduser())}\n".encode())
    return Tables(name, splits, digest.hexdigest())


def _read_file(given: str, split: str) -> pd.DataFrame:
    import datasets

    path = Path(given).expanduser()
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long for a file
        raise UnreachableError(f"the {split} file {given!r} does not exist: pass the path of a file")
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise BadRequestError(f"the {split} file {given!r} ends in {path.suffix!r}: use one of {', '.join(_BUILDERS)}")
    options: dict[str, Any] = {}
    if builder == "csv":
        # Only an empty field is missing: 'NA' and 'None' may be texts or labels.
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


def read_hub(dataset: str, subset: str | None, splits: Mapping[str, str | None], label: str | None) -> Tables:
    """Reads a data set of the Hub.

    Args:
        dataset: `owner/name`.
        subset: one of the data set's configurations.
        splits: split → its name in the data set. One with no name is read if the data set has it, and left out if its
            labels are withheld.
        label: the column of labels.

    Raises:
        BadRequestError: the data set or a split is missing.
        UnreachableError: the Hub cannot be reached.
    """
    import datasets
    import huggingface_hub

    name = f"{dataset}/{subset}" if subset else dataset
    require_hub(f"data set {dataset!r}")
    with _quiet_datasets():
        try:
            available = datasets.load_dataset(dataset, subset, cache_dir=str(cache_folder() / "datasets"))
        except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            reason = _first_line(error)
            offline = huggingface_hub.constants.HF_HUB_OFFLINE
            raise (UnreachableError if offline else BadRequestError)(
                f"data set {name!r} could not be loaded from the Hub ({reason}): "
                "check the name and subset, or pass local files as train, validation and test"
            ) from error
    tables = {}
    for split, wanted in splits.items():
        if (wanted or split) not in available:
            if wanted or split == "train":
                raise BadRequestError(
                    f"data set {name!r} has no split {wanted or split!r}: available are {', '.join(available)}"
                )
            continue
        table = pd.DataFrame(available[wanted or split].to_pandas())
        # The Hub writes -1 where labels are withheld, as in GLUE's test sets.
        if wanted is None and split != "train" and label in table and (table[label].astype(str) == "-1").all():
            continue
        tables[split] = table
    digest = hashlib.sha256()
    for split, table in tables.items():
        rows = table.to_json(default_handler=repr)
        digest.update(f"{split} {hashlib.sha256(rows.encode()).hexdigest()}\n".encode())
    return Tables(name, tables, digest.hexdigest())


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silences the progress bars and logs of datasets, and restores the user's settings."""
    import datasets

    bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # errors that it logs are also raised
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
