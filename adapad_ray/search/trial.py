"""The function that Ray Tune runs for each trial.

A trial is a process that imports this module: it stays without Optuna and torch, which take two seconds of a CPU.
"""

from __future__ import annotations

import json
import math
from typing import Any

import ray
from ray import tune

SCORE = "score"
"""Key of a job's value that is maximised: the validation metric."""
PAUSED = "paused"
"""Key of a job's value: the optimizer step at which the training has paused, if it has."""


def evaluate(config: dict[str, Any], *, queue: ray.actor.ActorHandle) -> None:
    """One trial: waits for its cell to end or to pause, and reports the score.

    Raises:
        RuntimeError: the cell failed, or its score is not finite.
    """
    outcome = ray.get(queue.submit_and_wait.remote(config["cell_id"], json.loads(config["payload"])))
    if outcome.status != "done":
        raise RuntimeError(f"cell {outcome.job_id} {outcome.status}: {outcome.error.type}: {outcome.error.message}")
    score = outcome.value[SCORE]
    if PAUSED in outcome.value:
        tune.report({SCORE: -math.inf if score is None else score})
        return
    if not math.isfinite(score):
        raise RuntimeError(f"cell {outcome.job_id} has score {score}")
    tune.report({SCORE: score})
