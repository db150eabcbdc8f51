"""Which cells train in packs: what `resources.slots_per_pass` means for a method."""

from __future__ import annotations

from typing import Any

from adapad_ray.methods import Method
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.training.settings import TrainingSettings


def shares_passes(spec: SweepSpec, method: type[Method[Any]], training: TrainingSettings) -> bool:
    """Return whether the lanes of a method's cells share passes: of methods with several lanes, under AdamW.

    Not in float16, where every lane scales its gradients by itself, and not under `auto` without a GPU.
    """
    if method.parallel != "components" or spec.dtype == "float16" or training.optimizer != "adamw":
        return False
    wanted = spec.resources.slots_per_pass
    return spec.resources.gpus_per_worker > 0 if wanted == "auto" else wanted > 1
