"""Tasks that go by a name: packaged data, GLUE, SQuAD, digits, and the linear setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapad_ray.assets import ASSETS
from adapad_ray.errors import BadRequestError
from adapad_ray.spelling import closest
from adapad_ray.tasks.catalog.glue import GLUE_TASKS, in_folder
from adapad_ray.tasks.catalog.packaged import DIGITS, packaged_source
from adapad_ray.tasks.registry import parse_source
from adapad_ray.tasks.source import DataSource, Source
from adapad_ray.tasks.types.bilinear import Bilinear, BilinearSource
from adapad_ray.tasks.types.classification import ClassificationSource
from adapad_ray.tasks.types.span import SpanSource

SQUAD_TASKS: dict[str, DataSource] = {
    "squad": SpanSource(
        type="span",
        dataset="rajpurkar/squad",
        answerable_only=True,
        examples={"train": 87_599, "validation": 10_570},
    ),
    "squad_v2": SpanSource(
        type="span", dataset="rajpurkar/squad_v2", examples={"train": 130_319, "validation": 11_873}
    ),
}


def list_tasks() -> dict[str, str]:
    """Return the tasks that go by a name: name → one line of description."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "task"}
    glue = {
        name: f"GLUE {name} ({task.metric}), from `data_dir` or the Hub; without a labelled test "
        "set, the validation set is the test"
        for name, task in GLUE_TASKS.items()
    }
    squad = {
        name: f"SQuAD {1.1 if name == 'squad' else 2.0}, spans (answer_f1), from `data_dir` or the Hub"
        for name in SQUAD_TASKS
    }
    digits = {DIGITS: "scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, for models of images"}
    linear = {Bilinear.name: "Y = W X with a known spectrum, for model linear: shows how single components converge"}
    return packaged | glue | squad | digits | linear


def resolve_task(task: str | Source | Mapping[str, Any], data_dir: str | None = None) -> Source:
    """Return the source of a task: one that goes by a name, a data set of the Hub, or the user's mapping.

    `data_dir` is the folder of the files of GLUE or SQuAD, and what relative paths of a mapping start from.

    Raises:
        BadRequestError: the name is unknown, the mapping describes no task, or the folder does not suit the task.
    """
    if isinstance(task, str):
        return _by_name(task, data_dir)
    source = parse_source(task) if isinstance(task, Mapping) else task
    return source.inside(data_dir)


def _by_name(task: str, data_dir: str | None) -> Source:
    on_hub = GLUE_TASKS | SQUAD_TASKS
    if task in on_hub:
        return in_folder(task, on_hub[task], data_dir)
    if data_dir is not None:
        raise BadRequestError(f"data_dir is {data_dir!r}, but task {task!r} reads no local files: remove it")
    if task == Bilinear.name:
        return BilinearSource(type="bilinear")
    if packaged := packaged_source(task):
        return packaged
    if task.count("/") == 1 and not task.startswith((".", "/", "~")) and "." not in task.rpartition("/")[2]:
        return ClassificationSource(dataset=task)
    near = closest(task, list_tasks())
    hint = f"did you mean {near!r}? " if near else ""
    raise BadRequestError(
        f"task {task!r} is unknown: {hint}use one of {', '.join(list_tasks())}, a Hub name (owner/name), "
        "or a mapping such as {train: a.csv, text: review, label: stars}"
    )
