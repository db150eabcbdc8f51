"""Methods by name. A new method is one file here, one entry below and one conformance subclass."""

from __future__ import annotations

from adapad_ray.methods.adalora import Adalora
from adapad_ray.methods.adapad import Adapad
from adapad_ray.methods.ard import Ard
from adapad_ray.methods.base import Deployable, Method, MethodConfig, Plan, RoundReport, Setting
from adapad_ray.methods.cp import CpMethod
from adapad_ray.methods.dora import Dora
from adapad_ray.methods.dylora import Dylora
from adapad_ray.methods.full import Full
from adapad_ray.methods.head_only import HeadOnly
from adapad_ray.methods.increlora import Increlora
from adapad_ray.methods.lora import Lora
from adapad_ray.methods.para import Para
from adapad_ray.methods.sequential import Sequential

METHODS: dict[str, type[Method]] = {  # type: ignore[type-arg]
    m.name: m for m in (Lora, Adapad, Sequential, Increlora, Dylora, CpMethod, Ard, Para, Adalora, Dora, HeadOnly, Full)
}

__all__ = [
    "METHODS",
    "Adalora",
    "Adapad",
    "Ard",
    "CpMethod",
    "Deployable",
    "Dora",
    "Dylora",
    "Full",
    "HeadOnly",
    "Increlora",
    "Lora",
    "Method",
    "MethodConfig",
    "Para",
    "Plan",
    "RoundReport",
    "Sequential",
    "Setting",
]
