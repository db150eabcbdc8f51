"""Methods by name. A new method is one file, one entry below and one conformance subclass (see README.md here)."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.methods.adalora import Adalora
from adapad_ray.methods.adapad import Adapad
from adapad_ray.methods.allocation import Fim, Gora
from adapad_ray.methods.ard import Ard
from adapad_ray.methods.base import BudgetedMethod, Method, MethodConfig
from adapad_ray.methods.cp import CpMethod
from adapad_ray.methods.dora import Dora
from adapad_ray.methods.dylora import Dylora
from adapad_ray.methods.full import Full
from adapad_ray.methods.head_only import HeadOnly
from adapad_ray.methods.increlora import Increlora
from adapad_ray.methods.lora import Lora
from adapad_ray.methods.melora import Melora
from adapad_ray.methods.para import Para
from adapad_ray.methods.plan import CellContext, Deployable, Plan, RoundReport
from adapad_ray.methods.sequential import Sequential

BUILT_IN = (
    Lora,
    Adapad,
    Sequential,
    Increlora,
    Fim,
    Gora,
    Dylora,
    CpMethod,
    Melora,
    Ard,
    Para,
    Adalora,
    Dora,
    HeadOnly,
    Full,
)
METHODS: dict[str, type[Method]]  # type: ignore[type-arg]
"""Name → method: the built-in ones and those of installed packages (entry point group `adapad_ray.methods`)."""


def __getattr__(name: str) -> Any:
    """Creates `METHODS` on first access: packages with methods import this one before their own methods exist."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    methods = {method.name: method for method in BUILT_IN}
    for entry in entry_points(group="adapad_ray.methods"):
        method = entry.load()
        if methods.setdefault(method.name, method) is not method:
            raise BadRequestError(f"{entry.value} has the name {method.name!r}, which is taken: choose another name")
    globals()["METHODS"] = methods
    return methods


__all__ = [
    "METHODS",
    "Adalora",
    "Adapad",
    "Ard",
    "BudgetedMethod",
    "CellContext",
    "CpMethod",
    "Deployable",
    "Dora",
    "Dylora",
    "Fim",
    "Full",
    "Gora",
    "HeadOnly",
    "Increlora",
    "Lora",
    "Melora",
    "Method",
    "MethodConfig",
    "Para",
    "Plan",
    "RoundReport",
    "Sequential",
]
