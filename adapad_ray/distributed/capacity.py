"""How many worker groups the nodes of a cluster hold: counted per node, since a worker cannot span two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.wording import counted

_OPERATORS = ("!", "in(", "!in(")
"""Beginnings of a label's value that are no plain value in Ray's selectors."""


@dataclass(frozen=True)
class WorkerRequest:
    """What Ray reserves for each worker, in Ray's own terms."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    """Bytes."""
    accelerator_type: str | None = None
    """As in `A100`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """A selector of nodes by their labels."""

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0:
            raise BadRequestError(
                f"a worker needs cpus > 0 and gpus >= 0, but got {self.cpus:g} CPUs and {self.gpus:g} GPUs"
            )

    @property
    def resources(self) -> dict[str, float]:
        """Name of a resource → amount, without zeros."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        if self.accelerator_type is not None:
            amounts[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return {name: amount for name, amount in amounts.items() if amount}

    def __str__(self) -> str:
        parts = [counted(self.cpus, "CPU"), counted(self.gpus, "GPU")]
        if self.memory:
            parts.append(f"{self.memory / 1e9:g} GB")
        text = f"{', '.join(parts[:-1])} and {parts[-1]}"
        if self.accelerator_type is not None:
            text += f" of type {self.accelerator_type}"
        if self.labels:
            text += " on a node with " + ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return text


@dataclass(frozen=True)
class NodeType:
    """Nodes with the same resources."""

    resources: Mapping[str, float]
    count: float = 1
    """How many there are, or may be; it may be infinite."""
    labels: Mapping[str, str] = field(default_factory=dict)
    declared: bool = False
    """Whether an autoscaler may start such nodes. A declaration knows CPUs and GPUs; it may leave out all else."""

    def workers(self, request: WorkerRequest) -> int:
        """Return how many workers one such node holds at once."""
        if not all(self._has_label(key, value) for key, value in request.labels.items()):
            return 0
        # Ray counts resources in units of 1e-4; the epsilon keeps 3 x 0.1 inside 0.3.
        copies = [self._amount(name) / amount + 1e-6 for name, amount in request.resources.items()]
        return int(min(copies))

    def __str__(self) -> str:
        gpu = [name.partition(":")[2] for name in self.resources if name.startswith("accelerator_type:")]
        parts = [
            counted(self._amount("CPU"), "CPU"),
            counted(self._amount("GPU"), "GPU") + f" ({', '.join(gpu)})" * bool(gpu),
        ]
        if "memory" in self.resources:
            parts.append(f"{self.resources['memory'] / 1e9:.0f} GB")
        return f"{', '.join(parts[:-1])} and {parts[-1]}"

    def _amount(self, name: str) -> float:
        unknown = math.inf if self.declared and name not in ("CPU", "GPU") else 0.0
        return self.resources.get(name, unknown)

    def _has_label(self, key: str, value: str) -> bool:
        if value.startswith(_OPERATORS):
            return True  # Ray decides
        return self.labels.get(key, value if self.declared else None) == value


@dataclass(frozen=True)
class Capacity:
    """The nodes of a cluster, and those that its autoscaler may add."""

    alive: Sequence[NodeType]
    declared: Sequence[NodeType] = ()
    most_nodes: float = math.inf
    """Of all declared types together."""

    def groups(self, workers: int, request: WorkerRequest) -> int:
        """Return how many groups of `workers` workers there is room for at once; a group may span several nodes.

        Raises:
            BadRequestError: not even one, ever. Ray would wait for it without a word.
        """
        room = max(_room(self.alive, request, math.inf), _room(self.declared, request, self.most_nodes))
        if room == 0:
            nodes = [*self.alive, *self.declared]
            largest = max(nodes, key=lambda node: _size(node, request), default=None)
            raise BadRequestError(
                f"no node of the cluster holds a worker with {request}"
                + (
                    f"; the largest node{'' if not self.declared else ' that it may have'} has {largest}"
                    if largest
                    else ""
                )
                + ": lower resources.cpus_per_worker or gpus_per_worker, or choose other nodes"
            )
        if room < workers:
            raise BadRequestError(
                f"a group of {counted(workers, 'worker')} with {request} each does not fit the cluster, which holds "
                f"{counted(room, 'such worker')}: lower resources.workers, cpus_per_worker or gpus_per_worker"
            )
        return MOST_GROUPS if math.isinf(room) else int(room) // workers


MOST_GROUPS = 1000
"""Groups of a cluster that grows without a limit."""


def _room(types: Sequence[NodeType], request: WorkerRequest, most_nodes: float) -> float:
    """Workers on at most `most_nodes` nodes; the best nodes are taken first."""
    room: float = 0
    for copies, count in sorted(((node.workers(request), node.count) for node in types), reverse=True):
        if copies:
            nodes = min(count, most_nodes)
            room += copies * nodes
            most_nodes -= 0 if math.isinf(nodes) else nodes
    return room


def _size(node: NodeType, request: WorkerRequest) -> tuple[Any, ...]:
    """Orders nodes by what they could hold of a request: GPUs first, if any are requested."""
    gpus = node.resources.get("GPU", 0)
    return (gpus if request.gpus else 0, node.resources.get("CPU", 0), node.resources.get("memory", 0))
