"""GLUE's tasks by name: columns, metrics and sizes, from a folder of JSON lines or from the Hub.

Where GLUE has two metrics, their mean decides, as in GLUE's own score, and both are reported. MNLI is scored on the
matched set; the mismatched one is reported beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.types.classification import ClassificationSource
from adapad_ray.tasks.types.regression import RegressionSource

_HUB = "nyu-mll/glue"
_SENTENCES = {"text": "sentence1", "text_pair": "sentence2"}


def _on_hub(subset: str, rows: tuple[int, int], **fields: Any) -> ClassificationSource:
    examples = dict(zip(("train", "validation"), rows, strict=True))
    return ClassificationSource.model_validate({"dataset": _HUB, "subset": subset, "examples": examples, **fields})


GLUE_TASKS: dict[str, DataSource] = {
    "cola": _on_hub("cola", (8_551, 1_043), text="sentence", metric="matthews_corrcoef"),
    "sst2": _on_hub("sst2", (67_349, 872), text="sentence"),
    "mrpc": _on_hub("mrpc", (3_668, 408), **_SENTENCES, metric="accuracy_f1"),
    "stsb": RegressionSource(
        type="regression",
        dataset=_HUB,
        subset="stsb",
        examples={"train": 5_749, "validation": 1_500},
        text="sentence1",
        text_pair="sentence2",
    ),
    "qqp": _on_hub("qqp", (363_846, 40_430), text="question1", text_pair="question2", metric="accuracy_f1"),
    "mnli": _on_hub(
        "mnli",
        (392_702, 9_815),
        validation="validation_matched",
        further_tests={"mismatched": "validation_mismatched"},
        classes=3,
        text="premise",
        text_pair="hypothesis",
    ),
    "qnli": _on_hub("qnli", (104_743, 5_463), text="question", text_pair="sentence"),
    "rte": _on_hub("rte", (2_490, 277), **_SENTENCES),
    "wnli": _on_hub("wnli", (635, 71), **_SENTENCES),
}
"""Name → task, with the columns, splits and numbers of rows of the Hub's data set."""


def in_folder(name: str, task: DataSource, data_dir: str | None) -> DataSource:
    """The task with the files of a folder instead of the Hub's data set, if a folder is given.

    The folder, or its subfolder with the task's name, holds `train.jsonl`, `validation.jsonl` and `test.jsonl` with the
    Hub's columns. A test set whose labels are withheld (-1) is left out. MNLI's validation files may be called
    `validation_matched.jsonl` and `validation_mismatched.jsonl`.

    Raises:
        BadRequestError: the folder has no `train.jsonl`.
    """
    if data_dir is None:
        return task
    base = Path(os.path.expanduser(data_dir))
    folder = next((path for path in (base / name, base) if (path / "train.jsonl").is_file()), None)
    if folder is None:
        raise BadRequestError(
            f"data_dir {data_dir!r} has no train.jsonl of task {name}: put it there or into {name}/, "
            "one JSON object per line"
        )
    files: dict[str, Any] = {"dataset": None, "subset": None, "train": str(folder / "train.jsonl")}
    files["validation"] = _first(folder, "validation.jsonl", f"{task.validation}.jsonl")
    test = _first(folder, "test.jsonl")
    files["test"] = test if test is not None and _labelled(Path(test)) else None
    further = {key: str(folder / f"{split}.jsonl") for key, split in task.further_tests.items()}
    return task.model_copy(update={**files, "further_tests": further})


def _first(folder: Path, *names: str) -> str | None:
    return next((str(folder / name) for name in names if (folder / name).is_file()), None)


def _labelled(path: Path) -> bool:
    """Whether the first row of a file has a label."""
    with path.open(encoding="utf-8") as lines:
        try:
            return bool(json.loads(next(lines, "{}")).get("label") != -1)
        except ValueError:
            return True  # reading the file reports the error
