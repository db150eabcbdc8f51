"""Tasks: where data come from, how they are split and encoded, and what is measured; a file for each type."""

from adapad_ray.tasks.base import Evaluated, Passes, RawTask, Split, TaskData, TaskType
from adapad_ray.tasks.data.catalog import list_tasks, resolve_task
from adapad_ray.tasks.data.encode import assume, encode
from adapad_ray.tasks.data.loading import load_task
from adapad_ray.tasks.encoding.texts import EncodedSplit
from adapad_ray.tasks.metrics import METRICS, find_metric
from adapad_ray.tasks.registry import TYPES, parse_source
from adapad_ray.tasks.source import BilinearSource, DataSource, TaskSource
from adapad_ray.tasks.types.bilinear import DenseSplit, make_bilinear

__all__ = [
    "METRICS",
    "TYPES",
    "BilinearSource",
    "DataSource",
    "DenseSplit",
    "EncodedSplit",
    "Evaluated",
    "Passes",
    "RawTask",
    "Split",
    "TaskData",
    "TaskSource",
    "TaskType",
    "assume",
    "encode",
    "find_metric",
    "list_tasks",
    "load_task",
    "make_bilinear",
    "parse_source",
    "resolve_task",
]
