"""Watching single components of a linear task converge: the probe of the training loop and the file it fills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.files import atomic_path
from adapad_ray.tasks.true_components import TrueComponents
from adapad_ray.training.trainer import Probe

COMPONENT_ERRORS = "component_errors.csv"
"""File of a cell's folder: columns `round` (from 1), `step` (optimizer steps done), `component`, `error`."""


def component_probe(truth: TrueComponents) -> Probe:
    """Relative distance of every published product s · b_k a_kᵀ X from its term of the SVD; 1 before it is published.

    For a model with one adapted module. Blocks of several components, which learn jointly, have no distance, nor have
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
    """Writes what the probe has said, one row a round and component, atomically; nothing if it never spoke."""
    rows = [
        {"round": number, "step": min(number * local_steps, total_steps), "component": k, "error": error}
        for number, errors in enumerate(probes, start=1)
        for k, error in enumerate(errors, start=1)
    ]
    if rows:
        with atomic_path(path) as scratch:
            pd.DataFrame(rows).to_csv(scratch, index=False)
