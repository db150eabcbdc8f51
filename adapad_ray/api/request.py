"""What a request for an adapter means on a model: method, modules, budget, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapad_ray.budget import ModuleShape, parse_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.mixed import best_precision
from adapad_ray.methods import METHODS, MethodConfig
from adapad_ray.models import Backbone
from adapad_ray.models.target_modules import target_modules as select
from adapad_ray.results import Precision
from adapad_ray.spelling import nearest
from adapad_ray.validation import validated
from adapad_ray.wording import counted

AnyPrecision = Literal["auto", "full", "tf32", "mixed"]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target_modules: str | list[str]
    settings: dict[str, Any] | None
    seed: int
    precision: AnyPrecision
    threads: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)


def check_arguments(**given: Any) -> None:
    """Checks the types of arguments that have no place in a sweep's file, or another one there.

    Raises:
        BadRequestError: the first that is wrong, in the words of a sweep's file.
    """
    validated(_Arguments, {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()})


@dataclass(frozen=True)
class Request:
    """An adapter that was asked for, and what follows from the model."""

    config: MethodConfig
    modules: tuple[ModuleShape, ...]
    budget: int | None
    """Adapter parameters; None for a method without a budget."""
    dtype: str
    precision: Precision
    device: str


def resolve(
    backbone: Backbone,
    method: str,
    budget: int | float | str | None,
    *,
    target_modules: str | Sequence[str],
    settings: Mapping[str, Any] | None,
    precision: AnyPrecision,
) -> Request:
    """Resolve a request.

    Raises:
        BadRequestError: a name or a value is unknown or does not fit the model.
    """
    if method not in METHODS:
        raise BadRequestError(f"method {method!r} is unknown: {nearest(method, METHODS)}")
    config = validated(METHODS[method].Config, dict(settings or {}), "settings")
    modules = select(backbone.model, target_modules if isinstance(target_modules, str) else list(target_modules))
    weight = next(backbone.model.parameters())
    dtype = str(weight.dtype).removeprefix("torch.")
    if precision in ("mixed", "tf32") and dtype != "float32":
        raise BadRequestError(f"precision {precision} is for a model in float32, but this one is in {dtype}")
    if precision == "tf32" and not weight.is_cuda:
        raise BadRequestError(f"precision tf32 is for a model on a GPU, but this one is on {weight.device}")
    chosen = best_precision(dtype, on_gpu=weight.is_cuda) if precision == "auto" else precision
    return Request(config, modules, _budget(method, budget, modules, backbone), dtype, chosen, str(weight.device))


def _budget(
    method: str, budget: int | float | str | None, modules: Sequence[ModuleShape], backbone: Backbone
) -> int | None:
    if not METHODS[method].budgeted:
        if budget is not None:
            raise BadRequestError(f"budget is {budget!r}, but {method} has none: leave it out")
        return None
    if budget is None:
        one_each = sum(module.component_cost for module in modules)
        where = counted(len(modules), "module")
        raise BadRequestError(f"method {method} needs a budget, such as {one_each:,}: one rank on each of {where}")
    return parse_budget(budget, modules=modules, backbone_parameters=backbone.parameters)
