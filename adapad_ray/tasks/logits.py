"""Evaluation of models with one row of logits per item."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from adapad_ray.tasks.losses import Loss
from adapad_ray.tasks.metrics import find_metric
from adapad_ray.tasks.task_data import Evaluated, Passes, Split, TaskData


def evaluate_logits(data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
    """The outputs `[items, outputs]` on every split, and their metrics."""
    results = {}
    for name in splits:
        logits = logits_of(passes, data.splits[name])
        labels = data.splits[name].labels
        scores = find_metric(data.metric).scores(logits, labels)
        results[name] = Evaluated(logits, scores, loss=mean_loss(data.loss, logits, labels))
    return results


def mean_loss(loss: Loss, logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the training loss over items, from logits `[items, outputs]` and labels `[items, …]`."""
    import torch

    output = SimpleNamespace(logits=torch.from_numpy(logits))
    return float(loss(output, torch.tensor(labels)).double().mean())


def logits_of(passes: Passes, split: Split) -> np.ndarray:
    """Logits float32 `[examples, outputs]`, in the split's own order."""
    logits: np.ndarray | None = None
    for rows, _, output in passes.outputs(split):
        values = output.logits.numpy()
        if logits is None:
            logits = np.empty((len(split), values.shape[1]), dtype=np.float32)
        logits[rows] = values
    assert logits is not None, "an empty split is refused before training"
    return logits
