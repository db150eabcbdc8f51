"""How single components of a linear task converge: the trainer's probe, and the file that holds its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.files import atomic_path
from adapad_ray.tasks.true_components import TrueComponents
from adapad_ray.training.record import Probe

COMPONENT_ERRORS = "component_errors.csv"
"""File of a cell's folder: columns `round` (from 1), `step` (optimizer steps done), `component`, `error`."""


def component_probe(truth: TrueComponents) -> Probe:
    """A probe of the relative distance of s · b_k a_kᵀ X from the k-th term of the SVD; 1 before k is published.

    For a model with one adapted module. Blocks of several components learn jointly and have no distance; neither have
    models without components.
    """

    @torch.no_grad()
    def probe(adapted: TrainableModel, published: Sequence[int]) -> list[float]:
        if not isinstance(adapted, AdaptedModel):
            return []
        (layer,) = adapted.layers.values()
        blocks = layer.active()
        if any(block.size > 1 for block in blocks):
            return []
        errors = []
        for k in range(1, min(len(blocks), len(truth.values)) + 1):
            a, b = (v[0].double().cpu().numpy() for v in blocks[k - 1].vectors())
            errors.append(truth.error(k, a, (k in published) * layer.scaling * b))
        return errors

    return probe


def write_component_errors(path: Path, probes: Sequence[Sequence[float]], local_steps: int, total_steps: int) -> None:
    """Writes the values of the probe atomically, one row per round and component; writes no file if there are none."""
    rows = [
        {"round": number, "step": min(number * local_steps, total_steps), "component": k, "error": error}
        for number, errors in enumerate(probes, start=1)
        for k, error in enumerate(errors, start=1)
    ]
    if rows:
        with atomic_path(path) as scratch:
            pd.DataFrame(rows).to_csv(scratch, index=False)
