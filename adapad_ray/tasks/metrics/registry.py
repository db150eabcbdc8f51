"""The metrics that a task may be judged by, by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from adapad_ray.errors import BadRequestError
from adapad_ray.spelling import closest
from adapad_ray.tasks.metrics.answers import ANSWER_F1, EXACT_MATCH
from adapad_ray.tasks.metrics.base import MeanOfTwo, Metric
from adapad_ray.tasks.metrics.classes import ACCURACY, F1, F1Macro, MatthewsCorrcoef
from adapad_ray.tasks.metrics.likelihoods import NEG_LOG_LOSS
from adapad_ray.tasks.metrics.numbers import R2, Pearson, Spearman

_ALL: tuple[Metric, ...] = (
    ACCURACY,
    F1(),
    F1Macro(),
    MatthewsCorrcoef(),
    MeanOfTwo(ACCURACY, F1(), split=1),
    Pearson(),
    Spearman(),
    MeanOfTwo(Pearson(), Spearman(), split=5),
    R2(),
    EXACT_MATCH,
    ANSWER_F1,
    NEG_LOG_LOSS,
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Name → metric."""


def find_metric(name: str) -> Metric:
    """Return the metric of this name.

    Raises:
        BadRequestError: there is none.
    """
    if name not in METRICS:
        raise BadRequestError(f"metric {name!r} is unknown: {_hint(name, list(METRICS))}")
    return METRICS[name]


def check_classes(name: str, classes: int, task: str) -> None:
    """Check that a metric suits a task's number of classes.

    Raises:
        BadRequestError: it is for two classes, and the task has another number.
    """
    if find_metric(name).binary and classes != 2:
        raise BadRequestError(f"metric {name} is for two classes and task {task!r} has {classes}: use f1_macro")


def metric_of(*predicted: str) -> AfterValidator:
    """Annotate a task's field `metric` so that it accepts the metrics of such predictions."""

    def check(name: str) -> str:
        known = [metric.name for metric in METRICS.values() if metric.predicted in predicted]
        if name not in known:
            raise ValueError(_hint(name, known))
        return name

    return AfterValidator(check)


ClassMetricName = Annotated[str, metric_of("classes")]
NumberMetricName = Annotated[str, metric_of("numbers")]
AnswerMetricName = Annotated[str, metric_of("answers")]


def _hint(name: str, known: list[str]) -> str:
    near = closest(name, known)
    return f"{f'did you mean {near}? ' if near else ''}use one of {', '.join(known)}"
