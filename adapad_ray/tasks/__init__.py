"""Tasks: where data come from, how they are split and tokenised, and what is measured."""

from adapad_ray.tasks.encoding import EncodedSplit, TaskData, encode
from adapad_ray.tasks.loading import RawTask, load_task
from adapad_ray.tasks.metrics import METRICS, compute_metrics
from adapad_ray.tasks.packaged import list_tasks, resolve_task
from adapad_ray.tasks.source import TaskSource

__all__ = [
    "METRICS",
    "EncodedSplit",
    "RawTask",
    "TaskData",
    "TaskSource",
    "compute_metrics",
    "encode",
    "list_tasks",
    "load_task",
    "resolve_task",
]
