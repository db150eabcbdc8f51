"""Tasks: where data come from, how they are split and tokenised, and what is measured."""

from adapad_ray.tasks.bilinear import DenseSplit, make_bilinear
from adapad_ray.tasks.encoding import EncodedSplit, Split, TaskData, encode
from adapad_ray.tasks.loading import RawTask, load_task
from adapad_ray.tasks.metrics import METRICS, compute_metrics
from adapad_ray.tasks.packaged import list_tasks, resolve_task
from adapad_ray.tasks.source import BilinearSource, TaskSource, parse_source

__all__ = [
    "METRICS",
    "BilinearSource",
    "DenseSplit",
    "EncodedSplit",
    "RawTask",
    "Split",
    "TaskData",
    "TaskSource",
    "compute_metrics",
    "encode",
    "list_tasks",
    "load_task",
    "make_bilinear",
    "parse_source",
    "resolve_task",
]
