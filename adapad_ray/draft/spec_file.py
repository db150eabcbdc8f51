"""The text of a first sweep file: fields with what was guessed, counted and estimated for them as comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from adapad_ray.cost.estimate import SweepEstimate, estimate
from adapad_ray.draft.subjects import Subject, subject_of
from adapad_ray.draft.yaml_text import comment, value
from adapad_ray.errors import BadRequestError
from adapad_ray.files import check_data_file
from adapad_ray.sweep.inputs import sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.tasks import TYPES
from adapad_ray.tasks.data.column_names import column_names
from adapad_ray.tasks.data.files import read_files
from adapad_ray.tasks.data.tables import FileError
from adapad_ray.wording import rough_duration

ONE_EPOCH = 1000
"""With more training examples, one epoch is enough for a first sweep; else three are."""
_SHARES = (0.25, 1.0, 4.0)
"""The budgets, in components per module."""
TUNE: Mapping[str, Any] = {
    "trials": 6,
    "budget": "ends",
    "early_stopping": True,
    "space": {"learning_rate": {"log": [1e-4, 3e-2]}},
}
"""The range has the rates of large models and those of small adapters on small ones (`benchmarks/RESULTS.md`)."""


@dataclass(frozen=True)
class Draft:
    """A sweep file and what it was made of."""

    content: str
    sentence: str
    """What is read, and what is predicted."""
    estimate: SweepEstimate


def draft_spec(data: str, model: str | None, file: str, *, text: str | None = None, label: str | None = None) -> Draft:
    """Reads the data and the model's sizes, and writes a sweep file that fits them. Trains nothing.

    Args:
        data: path of the training data, as the sweep file shall name it.
        model: as in a sweep file; default: a packaged one.
        file: name of the sweep file, for its comments.
        text: the column of texts; default: guessed.
        label: the column of labels; default: guessed.

    Raises:
        BadRequestError: the data, the model or a column cannot be used.
    """
    subject = subject_of(_read(data), text=text, label=label)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(file).stem).strip("-._") or "sweep"
    model = model or subject.model
    reader, _ = TYPES[subject.type].planning_reader(model)
    source = {"train": data, **subject.source(reader)}
    methods: dict[str, Any] = {"lora": {}, "adapad": {}}
    content: dict[str, Any] = {"name": name, "model": model, "task": source, "methods": methods, "budgets": ["1%"]}
    longest = min(subject.longest, getattr(reader, "model_max_length", subject.longest))
    content["training"] = {"max_length": longest, **subject.caps}
    inputs = sketch_inputs(parse_spec(content))
    rows = {name: size.available or size.rows for name, size in inputs.data.sizes.items()}
    length = min(longest, max(subject.shortest, _length(inputs.data.splits["train"].lengths)))
    factory = CellFactory(parse_spec(content), inputs)
    modules = len(factory.modules["lora"])
    ranks = [max(1, round(share * modules)) for share in _SHARES]
    content["budgets"] = [f"{count} ranks" for count in ranks]
    content["seeds"] = list(subject.seeds)
    content["training"] = {
        "epochs": 1 if min(rows["train"], subject.caps["max_train_examples"]) > ONE_EPOCH else 3,
        "max_length": length,
        **{cap: most for cap, most in subject.caps.items() if rows[cap.split("_")[1]] > most},
    }
    content["tune"] = TUNE
    if torch.cuda.is_available():
        content["resources"] = {"gpus_per_worker": 1}
    spec = parse_spec(content)
    inputs = sketch_inputs(spec)
    factory = CellFactory(spec, inputs)
    costs = {f"{count} ranks": factory.budget(f"{count} ranks") for count in ranks}
    estimated = estimate(spec, inputs, plan_sweep(factory))
    writer = _Writer(content, subject, rows, costs, modules, estimated, file)
    return Draft(writer.text(), subject.sentence, estimated)


def _read(data: str) -> pd.DataFrame:
    """All columns of a file, as text."""
    path = Path(os.path.expanduser(data))
    check_data_file(data, "train")
    try:
        names = column_names(path) if path.suffix else []
    except (FileError, OSError) as error:
        raise BadRequestError(f"the file {data!r} {error}") from error
    table = read_files(path.name, {"train": data}, {name: name for name in names}).splits["train"]
    return table.loc[:, ~table.columns.duplicated()]


def _length(lengths: np.ndarray) -> int:
    """A multiple of 8 that 95 % of the rows do not exceed, in tokens."""
    return 8 * int(np.ceil(np.percentile(lengths, 95) / 8))


@dataclass(frozen=True)
class _Writer:
    """Writes the file; what is not in `content` stands in comments."""

    content: Mapping[str, Any]
    subject: Subject
    rows: Mapping[str, int]
    """Split → rows before the caps."""
    costs: Mapping[str, int]
    """Budget in ranks → parameters."""
    modules: int
    estimate: SweepEstimate
    file: str

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self._head(), *self._task(), *self._methods(), *self._training()]) + "\n"

    def _head(self) -> list[str]:
        here = self.estimate.here
        cells = "one cell at a time" if here.groups <= 1 else f"{here.groups} cells at a time"
        data = self.content["task"]["train"]
        return [
            f"# Written by `adapad init {comment(data)}`; all fields: docs/sweep-file.md.",
            f"#     adapad plan {self.file}      # what it computes, in detail; trains nothing",
            f"#     adapad sweep {self.file}     # about {rough_duration(here.seconds)} on this machine, {cells}",
            "# Shorter: fewer seeds, budgets or training examples. Better: more of them.",
            f"name: {self.content['name']}",
            f"model: {value(self.content['model'])}",
        ]

    def _task(self) -> list[str]:
        comments = self.subject.comments()
        fields = self.content["task"]
        ordered = {name: fields[name] for name in ("type", "train", *fields)}
        lines = [
            f"  {name}: {value(text)}" + (f"    # {comments[name]}" if name in comments else "")
            for name, text in ordered.items()
        ]
        lines += [
            "  # validation: dev.csv    # without files of their own, validation (10 %) and test (20 %) are carved",
            "  # test: test.csv         # from the training file",
        ]
        if others := self.subject.others:
            lines.append(f"  # not read: {', '.join(map(comment, others))}")
        return ["task:", *lines]

    def _methods(self) -> list[str]:
        share = 100 / self.estimate.backbone_parameters
        budgets = [
            f"  - {ranks}    # {cost:,} parameters, {cost * share:.2g} % of the model; {self._each(ranks)}"
            for ranks, cost in self.costs.items()
        ]
        return [
            "methods:",
            "  lora: {}      # the baseline; it needs one component on each of the linear layers",
            "  adapad: {}    # finds out how many components each of them needs",
            f"budgets:    # a rank is one rank-1 component on one of the {self.modules} linear layers",
            *budgets,
            f"seeds: {json.dumps(self.content['seeds'])}",
        ]

    def _each(self, ranks: str) -> str:
        return f"{int(ranks.split()[0]) / self.modules:.2g} per layer"

    def _training(self) -> list[str]:
        training = dict(self.content["training"])
        lines = [
            "training:",
            f"  epochs: {training['epochs']}",
            "  batch_size: 16",
            f"  max_length: {training['max_length']}    # tokens; at least 95 % of the rows are shorter",
        ]
        if training["max_length"] == self.subject.longest:
            lines[-1] = f"  max_length: {self.subject.longest}    # tokens; longer rows are cut, and take longer"
        for cap in self.subject.caps:
            split = cap.split("_")[1]
            if cap in training:
                lines.append(f"  {cap}: {training[cap]}    # of {self.rows[split]:,}")
        low, high = TUNE["space"]["learning_rate"]["log"]
        return [
            *lines,
            "tune:    # every method gets its own learning rate, the best of these on validation",
            f"  trials: {TUNE['trials']}",
            f"  budget: {TUNE['budget']}    # at the smallest and the largest budget: small adapters want larger rates",
            "  early_stopping: true    # trials that are behind stop: six cost less than four without",
            f"  space: {{learning_rate: {{log: [{low:g}, {high:g}]}}}}",
            *([f"resources: {json.dumps(self.content['resources'])}"] if "resources" in self.content else []),
        ]
