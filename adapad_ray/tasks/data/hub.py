"""Reading rows of data sets of the Hub."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pandas as pd

from adapad_ray.assets import cache_folder, require_hub
from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.tasks.data.tables import Tables, labels_are_withheld, rows_digest

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


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
            if isinstance(error, OSError) and error.errno in _UNWRITABLE:
                raise BadRequestError(
                    f"the cache folder {cache_folder()} cannot be written ({error.strerror}): set ADAPAD_CACHE to a "
                    "writable folder"
                ) from error
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
        if wanted is None and split != "train" and labels_are_withheld(table, label):
            continue
        tables[split] = table
    return Tables(name, tables, rows_digest(tables))


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
