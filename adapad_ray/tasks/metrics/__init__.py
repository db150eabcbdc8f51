"""Metrics: one class each, used by the evaluation of cells and by the report's resampling."""

from adapad_ray.tasks.metrics.base import Metric, check_finite
from adapad_ray.tasks.metrics.registry import (
    METRICS,
    AnswerMetricName,
    ClassMetricName,
    NumberMetricName,
    check_classes,
    find_metric,
    metric_of,
)

__all__ = [
    "METRICS",
    "AnswerMetricName",
    "ClassMetricName",
    "Metric",
    "NumberMetricName",
    "check_classes",
    "check_finite",
    "find_metric",
    "metric_of",
]
