"""Where in a sweep's file a setting belongs, for the hint about one that stands in the wrong place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from adapad_ray.methods import METHODS
from adapad_ray.search.settings import SearchStage, TuneStage
from adapad_ray.spelling import meant
from adapad_ray.sweep.spec import CheckpointPeriod, Resources, SweepSpec
from adapad_ray.tasks.registry import TYPES
from adapad_ray.training.settings import TrainingSettings


def setting_keys(content: Mapping[str, Any]) -> dict[str, str]:
    """Name of a setting → its full key, such as `epochs` → `training.epochs`; of several, the likeliest.

    Args:
        content: the file's, not yet validated.
    """
    sections: list[tuple[str, type[BaseModel]]] = [("training.", TrainingSettings), ("resources.", Resources)]
    for label in _strings(content.get("methods")):
        method = METHODS.get(label.split("/")[0])
        if method is not None:
            sections.append((f"methods.{label}.", method.Config))
    task = content.get("task")
    kind = TYPES.get(str(task.get("type", ""))) if isinstance(task, Mapping) else None
    sections.append(("task.", (kind or TYPES["classification"]).Source))
    sections += [("checkpoint.", CheckpointPeriod), ("tune.", TuneStage), ("search.", SearchStage)]
    keys = {name: name for name in SweepSpec.model_fields}
    for prefix, section in sections:
        for name in section.model_fields:
            if meant(name, SweepSpec.model_fields) is None:  # `seed` outside tune means seeds
                keys.setdefault(name, prefix + name)
    return keys


def _strings(names: Any) -> list[str]:
    return [name for name in names if isinstance(name, str)] if isinstance(names, Iterable) else []
