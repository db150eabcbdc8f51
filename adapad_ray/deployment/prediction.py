"""Predictions and scores of an exported adapter on rows of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from adapad_ray.deployment.record import AdapterRecord, read_record
from adapad_ray.errors import BadRequestError
from adapad_ray.models import Backbone, load_backbone
from adapad_ray.models.loading.quantization import PACKAGES
from adapad_ray.models.reading import reading_model
from adapad_ray.tasks import TYPES, DataSource, RawTask, TaskData
from adapad_ray.tasks.data.column_names import names_in_file
from adapad_ray.tasks.data.files import read_files
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.task_data import Evaluated
from adapad_ray.training.cell.evaluation import ModelPasses

DIGITS = "%.6g"
"""Format of numbers in text."""
OUTPUTS: Sequence[str] = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Suffixes of files that predictions are written to."""
_SPLIT = "given"
"""What messages call the rows: `the given file`, `the given data`."""


@dataclass(frozen=True)
class ExportedModel:
    """A base model with an exported adapter, and how it reads and answers rows."""

    record: AdapterRecord
    model: nn.Module
    """With the adapter, in eval mode."""
    backbone: Backbone
    warnings: tuple[str, ...] = ()
    """What is suspicious; one sentence each."""

    @property
    def kind(self) -> RowTask[Any]:
        """The task's type."""
        kind = TYPES[self.record.source.type]
        assert isinstance(kind, RowTask)
        return kind

    @cached_property
    def reader(self) -> Any:
        """What turns rows into the model's inputs."""
        return self.backbone.tokenizer if self.kind.reads_texts else self.kind.reader(self.backbone.name)

    def predict(self, table: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
        """The table's columns that the task reads, and the model's answers beside them, in the order of the rows.

        Args:
            table: a row per item. A column of right answers is not needed, and ignored.
            folder: what relative paths of images start from.

        Raises:
            BadRequestError: a column is missing, or holds what the task cannot read.
        """
        source, evaluated = self._answer(table, folder)
        read = [column for column in _columns(self.kind, source).values() if column in table]
        answers = self.kind.prediction_columns(evaluated, self.record.labels)
        return table[list(dict.fromkeys(read))].assign(**answers)

    def outputs(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """What the task's metric takes of the model, a row per item; for texts its outputs `[items, outputs]`.

        Raises:
            BadRequestError: as `predict`.
        """
        return self._answer(table, None)[1].predictions

    def evaluate(self, table: pd.DataFrame, folder: Path | None = None) -> dict[str, float]:
        """The task's metrics on rows with right answers.

        Raises:
            BadRequestError: a column is missing, or holds what the task cannot read; a class is unknown.
        """
        source = self.record.source.for_rows(list(map(str, table)))
        return dict(self._evaluate(table, _in_folder(source, folder)).metrics)

    def read(self, file: str, *, answers: bool) -> pd.DataFrame:
        """The rows of a CSV, TSV, JSON Lines or Parquet file.

        Args:
            file: its path.
            answers: whether the column of right answers is read.

        Raises:
            BadRequestError: the file cannot be read, or lacks a column.
        """
        source = self.record.source
        if source.finds_columns and (names := names_in_file(file)):
            source = source.for_rows(names)
        columns = source.columns() if answers else _columns(self.kind, source)
        return read_files(file, {_SPLIT: file}, columns).splits[_SPLIT]

    def _answer(self, table: pd.DataFrame, folder: Path | None) -> tuple[DataSource, Evaluated]:
        source = self.record.source.for_rows(list(map(str, table))).for_predictions()
        source = _in_folder(source, folder)
        return source, self._evaluate(self.kind.without_answers(table, source, self.record.labels), source)

    def _evaluate(self, table: pd.DataFrame, source: DataSource) -> Evaluated:
        if table.empty:
            raise BadRequestError("there are no rows to predict")
        kind, record = self.kind, self.record
        frame = kind.number_as(kind.select(table.reset_index(drop=True), source, _SPLIT), record.labels, _SPLIT)
        raw = RawTask("rows", record.labels, source.metric, {"train": frame, _SPLIT: frame}, "", kind.name, source)
        kind.check_reader(raw, self.reader, record.max_length)
        split = kind.encode_split(raw, frame, _SPLIT, self.reader, record.max_length)
        settings = {**kind.settings(raw), **record.settings}
        data = TaskData("rows", record.labels, source.metric, {_SPLIT: split}, "", kind.loss, None, kind.name, settings)
        device = next(self.model.parameters()).device
        passes = ModelPasses(self.model, record.batch_size, self.backbone.pad_token_id, device, self.backbone.tokenizer)
        try:
            return kind.evaluate(data, passes, [_SPLIT])[_SPLIT]
        except FloatingPointError as error:
            raise BadRequestError(f"the model's outputs cannot be used: {error}") from error


def load_exported(folder: Path, model: str | None = None, device: str | None = None) -> ExportedModel:
    """Loads an adapter that `adapad export` wrote, with its base model.

    Args:
        folder: of the adapter.
        model: the base model, if it is not where it was.
        device: default: a GPU if there is one.

    Raises:
        BadRequestError: the folder holds no such adapter, or the base model cannot be loaded.
    """
    record = read_record(folder)
    exported = on_backbone(record, folder, load_base(record, model))
    exported.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return exported


def load_base(record: AdapterRecord, model: str | None = None) -> Backbone:
    """The base model of an adapter, on the CPU.

    Raises:
        BadRequestError: it cannot be loaded.
    """
    kind = TYPES[record.source.type]
    assert kind.auto_class is not None
    return load_backbone(
        model or record.model,
        kind.outputs(record.labels),
        auto_class=kind.auto_class,
        pooling=record.pooling,
        dtype=record.dtype,
        quantization=record.quantization if record.quantization in PACKAGES else None,  # else its files are
    )


def on_backbone(record: AdapterRecord, folder: Path, backbone: Backbone) -> ExportedModel:
    """The adapter in a folder on its base model, which is changed in place as by `PeftModel.from_pretrained`."""
    from peft import PeftModel  # its import takes seconds

    warnings: tuple[str, ...] = ()
    if record.model_digest not in ("", backbone.digest):
        name = backbone.name
        warnings = (f"{name} is not exactly the model that the adapter was trained on: predictions may differ",)
    template = folder / "chat_template.jinja"
    if template.is_file() and backbone.tokenizer is not None:  # a sweep may have brought its own
        backbone.tokenizer.chat_template = template.read_text(encoding="utf-8")
    with reading_model(backbone.name):
        loaded = PeftModel.from_pretrained(backbone.model, str(folder)).eval()
    return ExportedModel(record, loaded, backbone, warnings)


def write_predictions(predictions: pd.DataFrame, to: Path) -> None:
    """Writes predictions as CSV, TSV, JSON Lines or Parquet, by the suffix of the file (`check_output`)."""
    suffix = to.suffix.lower()
    if suffix == ".parquet":
        predictions.to_parquet(to, index=False)
    elif suffix in (".jsonl", ".json"):
        predictions.to_json(to, orient="records", lines=True, force_ascii=False)
    else:
        predictions.to_csv(to, index=False, sep="\t" if suffix == ".tsv" else ",", float_format=DIGITS)


def check_output(to: Path) -> None:
    """Checks that predictions can be written to a file of this name.

    Raises:
        BadRequestError: its suffix is unknown, its folder does not exist, or it exists itself.
    """
    if to.suffix.lower() not in OUTPUTS:
        raise BadRequestError(f"the output {str(to)!r} ends in {to.suffix!r}: use one of {', '.join(OUTPUTS)}")
    if not to.parent.is_dir():
        raise BadRequestError(f"the output's folder {str(to.parent)!r} does not exist: create it")
    if to.exists():
        raise BadRequestError(f"{to} exists: choose another file")


def _columns(kind: RowTask[Any], source: DataSource) -> Columns:
    """The columns that the task reads, without the right answers."""
    answer = kind.answer_column(source)
    return {name: column for name, column in source.columns().items() if column not in (None, answer)}


def _in_folder(source: DataSource, folder: Path | None) -> DataSource:
    """The source with a file of this folder as its test split, which paths of images are relative to."""
    place = str((folder or Path()) / "rows")
    return source.model_copy(update={"train": place, _SPLIT: place})
