"""Which cells train in packs, and with which others: what `resources.slots_per_pass` means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapad_ray.methods import Method
from adapad_ray.results import CellIdentity
from adapad_ray.sweep.spec import Resources, SweepSpec
from adapad_ray.training.settings import TrainingSettings

AUTO_CELLS = 16
"""Cells that a worker takes at one time under `auto`; how many of their lanes share a pass, its memory decides."""
_ALIKE = ("batch_size", "micro_batch_size", "optimizer", "pack_sequences", "gradient_checkpointing", "deterministic")
"""Training settings in which the cells of a pack agree; model, data and precision are the sweep's."""


def shares_passes(spec: SweepSpec, method: type[Method[Any]], training: TrainingSettings) -> bool:
    """Return whether cells of a method train in packs.

    With several workers a cell trains alone, and only lanes can share passes. Never under another optimizer than AdamW,
    or in float16, where every lane scales its gradients by itself. A training that must repeat exactly does not by
    itself either: what shares a pass depends on when cells end.
    """
    if not method.shares_passes or spec.dtype == "float16" or training.optimizer != "adamw":
        return False
    if training.deterministic and spec.resources.slots_per_pass == "auto":
        return False
    return most_cells(spec.resources) > 1 and (spec.resources.workers == 1 or method.parallel == "components")


def most_cells(resources: Resources) -> int:
    """Return the cells that a worker trains at one time, 1 without packs.

    The lanes of these cells are divided into passes evenly, so they may be more than a pass takes.
    """
    if resources.slots_per_pass == "auto":
        return AUTO_CELLS if resources.gpus_per_worker > 0 else 1
    return resources.slots_per_pass


def pass_key(training: Mapping[str, Any]) -> str:
    """Return a text that is the same for training settings whose cells can share passes."""
    return json.dumps({name: training[name] for name in _ALIKE})


def company(spec: SweepSpec, identity: CellIdentity) -> dict[str, Any] | None:
    """Return with which cells of the sweep a cell can train (`distributed.jobs.Company`); None: with none."""
    if not identity.packed or spec.resources.workers > 1:
        return None
    return {"key": pass_key(identity.training), "most": most_cells(spec.resources)}
