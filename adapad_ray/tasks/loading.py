"""Reading a task's data into three checked splits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from adapad_ray.assets import Asset, cache_folder, file_digest, require_hub
from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.packaged import read_rotten_tomatoes, resolve_task
from adapad_ray.tasks.source import SPLITS, BilinearSource, TaskSource
from adapad_ray.tasks.splits import carve

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class RawTask:
    """A task before tokenisation."""

    name: str
    """For people: two tasks may share it, `TaskData.digest` tells them apart."""
    label_names: tuple[str, ...]
    """Name of label 0, 1, …"""
    metric: str
    splits: Mapping[str, pd.DataFrame]
    """`train`, `validation`, `test`: columns `text`, `label` (int) and, where there are any, `text_pair`, `group`."""
    source_digest: str
    """sha256 over the source's files, or over its rows where it comes from the Hub."""


def load_task(source: str | TaskSource | Mapping[str, Any] | Asset) -> RawTask:
    """Read a task of texts, check it, and return it with three splits.

    Raises:
        BadRequestError: a file, column, label or split is missing or unusable.
    """
    task = resolve_task(source)
    if isinstance(task, BilinearSource):
        raise BadRequestError("task bilinear has no texts to read: make_bilinear makes its data")
    frames: dict[str, pd.DataFrame]
    if isinstance(task, Asset):
        name, metric, digest = task.name, "accuracy", task.sha256
        frames = {"train": read_rotten_tomatoes(task)}
    else:
        name, metric = _name_of(task), task.metric
        tables = _read_hub(task) if task.dataset is not None else _read_files(task)
        digest = _digest_of(task, tables)
        frames = {split: _select_columns(table, task, split) for split, table in tables.items()}
    splits = carve(frames)
    for split, frame in splits.items():
        if frame.empty:
            raise BadRequestError(
                f"the {split} split of task {name!r} is empty: give it a file of its own or more training data"
            )
    label_names = _label_names(splits["train"]["label"])
    if len(label_names) < 2:
        raise BadRequestError(f"task {name!r} has one label in training, {label_names[0]!r}: it takes at least two")
    if metric == "f1" and len(label_names) != 2:
        raise BadRequestError(f"metric f1 is for two labels and task {name!r} has {len(label_names)}: use macro_f1")
    codes = {label: index for index, label in enumerate(label_names)}
    coded = {split: _encode_labels(frame, codes, split) for split, frame in splits.items()}
    return RawTask(name, label_names, metric, coded, digest)


def _name_of(task: TaskSource) -> str:
    if task.dataset is not None:
        return f"{task.dataset}/{task.subset}" if task.subset else task.dataset
    assert task.train is not None  # checked by TaskSource
    path = Path(task.train).expanduser().resolve()
    return path.parent.name if path.stem in SPLITS else path.stem


def _read_files(task: TaskSource) -> dict[str, pd.DataFrame]:
    import datasets

    tables = {}
    for split in SPLITS:
        given = getattr(task, split)
        if given is None:
            continue
        path = Path(given).expanduser()
        if not path.is_file():
            raise BadRequestError(f"the {split} file {given!r} does not exist: pass the path of a file")
        builder = _BUILDERS.get(path.suffix.lower())
        if builder is None:
            raise BadRequestError(
                f"the {split} file {given!r} ends in {path.suffix!r}: use one of {', '.join(_BUILDERS)}"
            )
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
        tables[split] = table.to_pandas()
    return tables


def _read_hub(task: TaskSource) -> dict[str, pd.DataFrame]:
    import datasets

    assert task.dataset is not None
    require_hub(f"data set {task.dataset!r}")
    with _quiet_datasets():
        try:
            found = datasets.load_dataset(
                task.dataset,
                task.subset,
                cache_dir=str(cache_folder() / "datasets"),
            )
        except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            reason = _first_line(error)
            raise BadRequestError(
                f"data set {_name_of(task)!r} could not be loaded from the Hub ({reason}): "
                "check the name and subset, or pass local files as train, validation and test"
            ) from error
    tables = {}
    for split in SPLITS:
        asked = getattr(task, split)
        if (asked or split) not in found:
            if asked or split == "train":
                raise BadRequestError(
                    f"data set {_name_of(task)!r} has no split {asked or split!r}: available are {', '.join(found)}"
                )
            continue
        table = found[asked or split].to_pandas()
        # The Hub writes -1 where labels are withheld, as in GLUE's test sets.
        if asked is None and split != "train" and task.label in table and (table[task.label].astype(str) == "-1").all():
            continue
        tables[split] = table
    return tables


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _digest_of(task: TaskSource, tables: Mapping[str, pd.DataFrame]) -> str:
    digest = hashlib.sha256()
    for split, table in tables.items():
        if task.dataset is None:
            digest.update(f"{split} {file_digest(Path(getattr(task, split)).expanduser())}\n".encode())
        else:
            digest.update(f"{split} {hashlib.sha256(table.to_json().encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _select_columns(table: pd.DataFrame, task: TaskSource, split: str) -> pd.DataFrame:
    """Return the task's columns under our names, all but the label as strings."""
    wanted = {"text": task.text, "text_pair": task.text_pair, "label": task.label, "group": task.group}
    selected = {}
    for ours, theirs in wanted.items():
        if theirs is None:
            continue
        if theirs not in table:
            raise BadRequestError(
                f"the {split} data have no column {theirs!r} for {ours!r}: available are {', '.join(map(str, table))}"
            )
        column = table[theirs]
        if nulls := int(column.isna().sum()):
            raise BadRequestError(
                f"column {theirs!r} of the {split} data is empty in {nulls:,} of {len(column):,} rows: "
                "fill or drop them"
            )
        selected[ours] = column if ours == "label" else column.astype(str)
    frame = pd.DataFrame(selected)
    frame["label"] = _labels_as_text(frame["label"], task.label, split)
    return frame


def _labels_as_text(labels: pd.Series, column: str, split: str) -> pd.Series:
    """Return labels as strings, whole floats like integers, so that splits agree however a file types them."""
    if pd.api.types.is_float_dtype(labels):
        fractional = labels[labels != labels.round()]
        if len(fractional):
            raise BadRequestError(
                f"column {column!r} of the {split} data holds {fractional.iloc[0]}: labels are classes, not numbers"
            )
        labels = labels.astype("int64")
    return labels.map(str)


def _label_names(labels: pd.Series) -> tuple[str, ...]:
    """Return the labels of the training split, sorted as integers if all are, else as text."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def _encode_labels(frame: pd.DataFrame, codes: Mapping[str, int], split: str) -> pd.DataFrame:
    unknown = sorted(set(frame["label"]) - set(codes))
    if unknown:
        raise BadRequestError(
            f"the {split} split holds labels that training lacks ({', '.join(unknown[:5])}): "
            f"known are {', '.join(codes)}"
        )
    return frame.assign(label=frame["label"].map(codes).astype("int64"))


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
