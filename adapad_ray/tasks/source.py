"""The fields of `task` that all types share: files or a data set of the Hub, its splits, and how many rows it has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapad_ray.errors import BadRequestError
from adapad_ray.files import check_place
from adapad_ray.tasks.data.files import read_files
from adapad_ray.tasks.data.hub import read_hub
from adapad_ray.tasks.data.splits import SPLITS, Shares
from adapad_ray.tasks.data.tables import Columns, Tables


class SourceFile(NamedTuple):
    """A file that a task names."""

    key: str
    """Where the sweep's file names it: `task.train`."""
    path: str
    required: bool
    """Whether the task cannot be read without it."""


class Source(BaseModel):
    """What a user writes under `task`; each type adds its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str

    def inside(self, folder: str | None) -> Self:
        """The same source with the paths of its files relative to `folder`.

        Raises:
            BadRequestError: a folder is given, but the source reads no local files.
        """
        if folder is not None:
            raise BadRequestError(f"data_dir is {folder!r}, but this task reads no local files: remove it")
        return self

    def files(self) -> list[SourceFile]:
        """The local files that the source names."""
        return []


class DataSource(Source):
    """Rows in local files, or a data set of the Hub.

    With `dataset`, the fields `train`, `validation` and `test` name splits of it; otherwise they are paths of
    jsonl, json, csv, tsv or parquet files. Only the training data are required: missing splits are carved from it.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: str | None = None
    subset: str | None = None
    group: str | None = None
    """Column whose values are kept in one split when splits are carved, such as a document or an author."""
    further_tests: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], str] = {}
    """Name → file or split, whose scores are reported beside the test's as `<name>_<metric>` and decide nothing. A
    missing local file is left out."""
    examples: dict[Literal["train", "validation", "test"], Annotated[int, Field(ge=1)]] = {}
    """Number of rows of the data set: `adapad plan` uses it where the data are missing."""
    classes: Annotated[int, Field(ge=1)] = 2
    """Number of classes, for the same purpose; otherwise they are counted."""
    shares: Shares = Shares()
    """How much of the training data carving takes."""
    metric: str
    """Name of the deciding metric. A type restricts it to the metrics that it accepts, and gives a default."""

    @model_validator(mode="after")
    def _has_training_data(self) -> Self:
        if self.train is None and self.dataset is None:
            raise ValueError("a task needs `train` (a file) or `dataset` (a name on the Hub), and has neither")
        if self.subset is not None and self.dataset is None:
            raise ValueError(f"subset {self.subset!r} belongs to a `dataset`, and there is none")
        return self

    @property
    def name(self) -> str:
        """The task's name for people: the data set, or the file, or its folder where the file is named for a split."""
        if self.dataset is not None:
            return f"{self.dataset}/{self.subset}" if self.subset else self.dataset
        assert self.train is not None  # see _has_training_data
        path = Path(os.path.realpath(os.path.expanduser(self.train)))  # Path.resolve raises where links form a loop
        return path.parent.name if path.stem in SPLITS else path.stem

    def inside(self, folder: str | None) -> Self:
        """The same source with its files in `folder`; absolute paths stay as they are."""
        if folder is None or self.dataset is not None:
            return super().inside(folder)
        base = Path(os.path.expanduser(folder))
        files = {name: str(base / path) for name in SPLITS if (path := getattr(self, name)) is not None}
        further = {name: str(base / path) for name, path in self.further_tests.items()}
        return self.model_copy(update={**files, "further_tests": further})

    def files(self) -> list[SourceFile]:
        """The files of the splits and of the further tests; none for a data set of the Hub."""
        if self.dataset is not None:
            return []
        splits = [SourceFile(f"task.{name}", path, True) for name in SPLITS if (path := getattr(self, name))]
        further = self.further_tests.items()
        return splits + [SourceFile(f"task.further_tests.{name}", path, False) for name, path in further]

    def columns(self) -> Columns:
        """Field → the column that it names; files are read for these columns alone. Types add theirs.

        Raises:
            BadRequestError: a field names its columns in an unusable way.
        """
        return {"group": self.group}

    finds_columns: ClassVar[bool] = False
    """Whether columns that are not named are found by those of the data."""

    def found_in(self, columns: Sequence[str]) -> Self:
        """The same source with the columns that it leaves open, which are found among these.

        Raises:
            BadRequestError: they are not.
        """
        return self

    def for_rows(self, columns: Sequence[str]) -> Self:
        """The same source for rows that were not in the training, with these columns.

        Raises:
            BadRequestError: they hold nothing that it reads.
        """
        return self

    def for_predictions(self) -> Self:
        """The same source as it reads and answers rows without right answers."""
        return self

    def check_roles(self) -> None:
        """Check that no column is both read and to be predicted, or read twice; groups may be by any column.

        Raises:
            BadRequestError: one is.
        """
        roles: dict[str, str] = {}
        for field, column in self.columns().items():
            if column is None or field == "group":
                continue
            if column in roles:
                raise BadRequestError(
                    f"task: {roles[column]} and {field} are both column {column!r}: name another for one"
                )
            roles[column] = field

    def read_tables(self) -> Tables:
        """The rows of every split.

        Raises:
            BadRequestError: a file or split is missing or unreadable.
            UnreachableError: a file does not exist, or the Hub cannot be reached.
        """
        splits = {split: getattr(self, split) for split in SPLITS}
        further = {f"test_{name}": path for name, path in self.further_tests.items()}
        if self.dataset is not None:
            return read_hub(self.dataset, self.subset, splits | further, getattr(self, "label", None))
        for split, path in further.items():
            check_place(path, split)
        there = {split: path for split, path in further.items() if os.path.isfile(Path(os.path.expanduser(path)))}
        given = {split: path for split, path in splits.items() if path is not None}
        return read_files(self.name, given | there, self.columns())


class TextSource(DataSource):
    """One or two text columns and a label."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"

    def columns(self) -> Columns:
        """Texts, label and group."""
        return {"text": self.text, "text_pair": self.text_pair, "label": self.label} | super().columns()
