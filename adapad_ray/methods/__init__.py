"""Methods by name. A new method is one file here, one entry below and one conformance subclass."""

from __future__ import annotations

from adapad_ray.methods.adapad import Adapad
from adapad_ray.methods.base import Deployable, Method, MethodConfig, Plan, RoundReport, Setting
from adapad_ray.methods.head_only import HeadOnly
from adapad_ray.methods.lora import Lora

METHODS: dict[str, type[Method]] = {m.name: m for m in (Lora, Adapad, HeadOnly)}  # type: ignore[type-arg]

__all__ = [
    "METHODS",
    "Adapad",
    "Deployable",
    "HeadOnly",
    "Lora",
    "Method",
    "MethodConfig",
    "Plan",
    "RoundReport",
    "Setting",
]
