"""Tasks that go by a name: packaged data, GLUE, SQuAD, digits, and the linear setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from adapad_ray.assets import ASSETS, Asset, fetch, find_asset
from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.glue import GLUE_TASKS, in_folder
from adapad_ray.tasks.registry import TYPES, parse_source
from adapad_ray.tasks.source import BilinearSource, DataSource, TaskSource
from adapad_ray.tasks.types.image import ImageSource
from adapad_ray.tasks.types.span import SpanSource
from adapad_ray.validation import closest

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
DIGITS = "digits"


def list_tasks() -> dict[str, str]:
    """Return the tasks that go by a name: name to one line of description."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "task"}
    glue = {
        name: f"GLUE {name} ({TYPES[task.type].metric(task)}), from `data_dir` or the Hub; without a labelled test "
        "set its validation set is our test"
        for name, task in GLUE_TASKS.items()
    }
    squad = {name: f"SQuAD {1.1 if name == 'squad' else 2.0}, spans (answer_f1), likewise" for name in SQUAD_TASKS}
    digits = {DIGITS: "scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, for models of images"}
    linear = {"bilinear": "Y = W X with a known spectrum, for model linear: watch single components converge"}
    return packaged | glue | squad | digits | linear


def resolve_task(
    task: str | DataSource | BilinearSource | Mapping[str, Any] | Asset, data_dir: str | None = None
) -> DataSource | BilinearSource | Asset:
    """Return the source of a task: packaged data, a GLUE task by name, a Hub name, or the user's own mapping.

    `data_dir` is where the files of GLUE or SQuAD are, and what relative paths of a mapping start from.

    Raises:
        BadRequestError: the name is unknown, the mapping describes no task, or the folder is no use to it.
    """
    if isinstance(task, str):
        return _by_name(task, data_dir)
    found = parse_source(task) if isinstance(task, Mapping) else task
    if isinstance(found, DataSource) and found.dataset is None:
        return found.inside(data_dir)
    if data_dir is not None:
        raise BadRequestError(f"data_dir is {data_dir!r}, but this task reads no local files: remove it")
    return found


def _by_name(task: str, data_dir: str | None) -> DataSource | BilinearSource | Asset:
    on_hub = GLUE_TASKS | SQUAD_TASKS
    if task in on_hub:
        return in_folder(task, on_hub[task], data_dir)
    if data_dir is not None:
        raise BadRequestError(f"data_dir is {data_dir!r}, but task {task!r} reads no local files: remove it")
    if task == "bilinear":
        return BilinearSource(type="bilinear")
    if task == DIGITS:
        return ImageSource(type="image", train=DIGITS)
    if asset := find_asset("task", task):
        return asset
    if task.count("/") == 1 and not task.startswith((".", "/", "~")) and "." not in task.rpartition("/")[2]:
        return TaskSource(dataset=task)
    near = closest(task, list_tasks())
    hint = f"did you mean {near!r}? " if near else ""
    raise BadRequestError(
        f"task {task!r} is unknown: {hint}use one of {', '.join(list_tasks())}, a Hub name (owner/name), "
        "or a mapping such as {train: a.csv, text: review, label: stars}"
    )


def read_packaged(asset: Asset) -> tuple[str, dict[str, pd.DataFrame], str, DataSource]:
    """Name, rows, digest and description of packaged data."""
    source = TaskSource(train=asset.members[0], group="group")
    return asset.name, {"train": _rotten_tomatoes(asset)}, asset.sha256, source


def _rotten_tomatoes(asset: Asset) -> pd.DataFrame:
    """The review snippets: `text`, `label` (fresh or rotten) and `group` (the film).

    Plot summaries are no reviews, and a snippet that stands under two films keeps the first.
    """
    (member,) = asset.members
    frame = pd.read_csv(fetch(asset) / member)
    frame = frame[frame["category"] != "plot"].drop_duplicates("text")
    columns = {"text": "text", "category": "label", "movie_name": "group"}
    return frame[list(columns)].rename(columns=columns).reset_index(drop=True)
