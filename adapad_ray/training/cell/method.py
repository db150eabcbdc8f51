"""The method of a cell, the cell it depends on, and the workers it can use."""

from __future__ import annotations

from typing import Any

from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.methods.base import Method
from adapad_ray.methods.plan import CellContext
from adapad_ray.results import CellIdentity
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.workers import Alone, ComponentParallel, DataParallel, Exchange, Workers


def make_method(
    identity: CellIdentity, modules: tuple[ModuleShape, ...], train_examples: int, backbone_parameters: int
) -> Method[Any]:
    """The method of a cell, configured for its budget, seed and number of steps."""
    cls = METHODS[identity.method]
    settings = TrainingSettings(**identity.training)
    steps = settings.total_steps(train_examples)
    context = CellContext(modules, identity.budget, steps, identity.seed, backbone_parameters, identity.quantization)
    return cls(cls.Config(**identity.config), context)


def parent_identity(identity: CellIdentity, method: Method[Any]) -> CellIdentity | None:
    """The cell whose adapter a post-hoc method cuts: the same data, modules, training and seed as the cell's own."""
    parent = method.parent()
    if parent is None:
        return None
    changes = {
        "stage": "parent",
        "method": parent.method,
        "method_version": METHODS[parent.method].version,
        "config": parent.config.model_dump(mode="json"),
        "budget": parent.budget,
        "parent": None,
    }
    return identity.model_copy(update=changes)


def check_workers(method: Method[Any], workers: int) -> None:
    """Checks that a method can use this number of workers.

    Raises:
        BadRequestError: the method trains in one worker only.
    """
    if workers > 1 and method.parallel is None:
        raise BadRequestError(
            f"resources.workers is {workers}, but {method.name} as configured trains in one worker: set it to 1, or "
            "put the method into a sweep of its own"
        )


def workers_for(method: Method[Any], exchange: Exchange | None) -> Workers:
    """How the worker at this end of `exchange` takes part in the training.

    Raises:
        BadRequestError: the method trains in one worker only.
    """
    if exchange is None or exchange.workers == 1:
        return Alone()
    check_workers(method, exchange.workers)
    return ComponentParallel(exchange) if method.parallel == "components" else DataParallel(exchange)
