"""Tasks: where data come from, how they are split and encoded, and how predictions are scored.

`README.md` in this folder tells how to add a task type or a metric.
"""

from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.catalog.names import list_tasks, resolve_task
from adapad_ray.tasks.encoding.texts import EncodedSplit
from adapad_ray.tasks.loading import encode, load_task
from adapad_ray.tasks.metrics import METRICS, find_metric
from adapad_ray.tasks.registry import TYPES, parse_source
from adapad_ray.tasks.source import DataSource, Source
from adapad_ray.tasks.split_sizes import SplitSize, sizes_in_words
from adapad_ray.tasks.task_data import DataLimits, Evaluated, Passes, RawTask, Split, TaskData
from adapad_ray.tasks.types.bilinear import BilinearSource, DenseSplit, make_bilinear
from adapad_ray.tasks.types.classification import ClassificationSource

__all__ = [
    "METRICS",
    "TYPES",
    "BilinearSource",
    "ClassificationSource",
    "DataLimits",
    "DataSource",
    "DenseSplit",
    "EncodedSplit",
    "Evaluated",
    "Passes",
    "RawTask",
    "Source",
    "Split",
    "SplitSize",
    "TaskData",
    "TaskType",
    "encode",
    "find_metric",
    "list_tasks",
    "load_task",
    "make_bilinear",
    "parse_source",
    "resolve_task",
    "sizes_in_words",
]
