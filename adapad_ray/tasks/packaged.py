"""Tasks that go by a name: packaged data, the classification tasks of GLUE on the Hub, and the linear setting."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from adapad_ray.assets import ASSETS, Asset, fetch, find_asset
from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.source import BilinearSource, TaskSource, parse_source

_GLUE = "nyu-mll/glue"

GLUE_TASKS: dict[str, TaskSource] = {
    "cola": TaskSource(dataset=_GLUE, subset="cola", text="sentence", metric="matthews"),
    "sst2": TaskSource(dataset=_GLUE, subset="sst2", text="sentence"),
    "mrpc": TaskSource(dataset=_GLUE, subset="mrpc", text="sentence1", text_pair="sentence2"),
    "rte": TaskSource(dataset=_GLUE, subset="rte", text="sentence1", text_pair="sentence2"),
    "wnli": TaskSource(dataset=_GLUE, subset="wnli", text="sentence1", text_pair="sentence2"),
    "qnli": TaskSource(dataset=_GLUE, subset="qnli", text="question", text_pair="sentence"),
    "qqp": TaskSource(dataset=_GLUE, subset="qqp", text="question1", text_pair="question2", metric="f1"),
    "mnli": TaskSource(
        dataset=_GLUE, subset="mnli", validation="validation_matched", text="premise", text_pair="hypothesis"
    ),
}


def list_tasks() -> dict[str, str]:
    """Return the tasks that go by a name: name to one line of description."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "task"}
    glue = {
        name: f"GLUE {name} from the Hub ({task.metric}); its labelled validation set is our test"
        for name, task in GLUE_TASKS.items()
    }
    linear = {"bilinear": "Y = W X with a known spectrum, for model linear: watch single components converge"}
    return packaged | glue | linear


def resolve_task(
    task: str | TaskSource | BilinearSource | Mapping[str, Any] | Asset,
) -> TaskSource | BilinearSource | Asset:
    """Return the source of a task: packaged data, a GLUE task by name, a Hub name, or the user's own mapping.

    Raises:
        BadRequestError: the name is unknown or the mapping describes no task.
    """
    if isinstance(task, (TaskSource, BilinearSource, Asset)):
        return task
    if isinstance(task, str):
        if task == "bilinear":
            return BilinearSource(type="bilinear")
        if asset := find_asset("task", task):
            return asset
        if task in GLUE_TASKS:
            return GLUE_TASKS[task]
        if task.count("/") == 1 and not task.startswith((".", "/", "~")) and "." not in task.rpartition("/")[2]:
            return TaskSource(dataset=task)
        nearest = difflib.get_close_matches(task, list_tasks(), n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise BadRequestError(
            f"task {task!r} is unknown: {hint}use one of {', '.join(list_tasks())}, a Hub name (owner/name), "
            "or a mapping such as {train: a.csv, text: review, label: stars}"
        )
    return parse_source(task)


def read_rotten_tomatoes(asset: Asset) -> pd.DataFrame:
    """Return the review snippets: `text`, `label` (fresh or rotten) and `group` (the film).

    Plot summaries are no reviews, and a snippet that stands under two films keeps the first.
    """
    (member,) = asset.members
    frame = pd.read_csv(fetch(asset) / member)
    frame = frame[frame["category"] != "plot"].drop_duplicates("text")
    columns = {"text": "text", "category": "label", "movie_name": "group"}
    return frame[list(columns)].rename(columns=columns).reset_index(drop=True)
