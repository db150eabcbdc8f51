"""How workers get the frozen backbone: from its files, or from the object store, where one copy serves a node."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from adapad_ray.distributed.cluster import has_other_nodes
from adapad_ray.models import Backbone, BackboneRecipe
from adapad_ray.models.loading.checkpoint import AbsentCheckpointError

_ALIGNMENT = 64
"""Bytes. The object store begins every array at a multiple of it."""

_KEEPER_BYTES = 300_000_000
"""Memory of the keeper's process. Sharing converted weights must save more."""


class Weight(NamedTuple):
    """A parameter as an array, because numpy has no bfloat16 and Ray reads arrays, unlike tensors, without a copy."""

    data: np.ndarray
    """Its bytes, uint8, after `lead` others."""
    lead: int
    """Bytes before the weight. Products may be rounded by where in a cache line it begins, so that is kept."""
    dtype: torch.dtype


@dataclass(frozen=True)
class SharedBackbone:
    """A backbone to pass to `ray.put`."""

    frame: Backbone
    """The backbone with every parameter on the meta device; buffers and tokenizer are real."""
    weights: Mapping[str, Weight]
    """By parameter, without the head."""
    head: Mapping[str, Tensor]

    def open(self, device: str) -> Backbone:
        """Rebuild the backbone. On the CPU its weights are the shared memory itself and must not be written."""
        filled: dict[int, nn.Parameter] = {}
        parameters = dict(self.frame.model.named_parameters())
        for name, weight in self.weights.items():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                tensor = torch.from_numpy(weight.data)[weight.lead :].view(weight.dtype).view(parameters[name].shape)
            filled[id(parameters[name])] = nn.Parameter(tensor, requires_grad=False)
        for name, tensor in self.head.items():
            filled[id(parameters[name])] = nn.Parameter(tensor.clone(), requires_grad=False)
        model = copy.deepcopy(self.frame.model, dict(filled))
        return replace(self.frame, model=model.to(device))


def share_backbone(backbone: Backbone) -> SharedBackbone:
    """Separate the weights of a backbone on the CPU from its structure. The backbone is not changed."""
    weights, head = {}, {}
    empty: dict[int, Any] = {}
    for name, p in backbone.model.named_parameters():
        empty[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        if name.startswith(tuple(f"{module}." for module in backbone.head_modules)):
            head[name] = p.detach()
        else:
            weights[name] = _weight(p.detach())
    # deepcopy treats what is in its memo as copied, so no weight is copied, and tied weights stay tied.
    return SharedBackbone(replace(backbone, model=copy.deepcopy(backbone.model, empty)), weights, head)


def _weight(p: Tensor) -> Weight:
    p = p.contiguous()
    lead = p.data_ptr() % _ALIGNMENT
    return Weight(np.asarray(_CacheLines(p, lead)), lead, p.dtype)


class _CacheLines:
    """Memory of a tensor from the beginning of its first cache line, for numpy, which keeps this object.

    A cache line lies in one page, so all of it can be read.
    """

    def __init__(self, tensor: Tensor, lead: int) -> None:
        self._tensor = tensor
        data = tensor.data_ptr() - lead, True
        self.__array_interface__ = {"data": data, "shape": (lead + tensor.nbytes,), "typestr": "|u1", "version": 3}


class BackboneKeeper:
    """An actor on the driver's node that loads a backbone when it is first asked for, and shares it.

    The object lives as long as the actor, which no worker's death ends.
    """

    def __init__(self, recipe: BackboneRecipe) -> None:
        self._recipe = recipe
        self._shared: ray.ObjectRef | None = None

    def backbone(self) -> list[ray.ObjectRef]:
        """Return the reference of a `SharedBackbone`, in a list so that Ray passes it on as it is."""
        if self._shared is None:
            self._shared = ray.put(share_backbone(self._recipe.load()))
        return [self._shared]


@dataclass(frozen=True)
class OfferedBackbone:
    """What workers get in the place of a backbone's weights."""

    recipe: BackboneRecipe
    keeper: ray.actor.ActorHandle | None
    """The actor that shares the weights; None where every worker can load them itself."""
    shares_on_cpu: bool
    """Whether workers on CPUs take converted weights from the keeper instead of each converting its own."""

    def open(self, device: str) -> Backbone:
        """Load the backbone from its files if this node has them, else take it from the object store.

        Raises:
            AbsentCheckpointError: this node has not the files, and no keeper has the weights: they are quantised, or
                the node was not part of the cluster when the sweep began.
        """
        if self.keeper is not None and self.shares_on_cpu and device == "cpu":
            return self._shared(self.keeper, device)
        try:
            return self.recipe.load(device)
        except AbsentCheckpointError as error:
            if self.keeper is None:
                raise AbsentCheckpointError(
                    f"{error}: copy them there, or, for a model that is not quantised, start the sweep again, which "
                    "sends its weights to all nodes of the cluster"
                ) from error
            return self._shared(self.keeper, device)

    def _shared(self, keeper: ray.actor.ActorHandle, device: str) -> Backbone:
        shared: SharedBackbone = ray.get(ray.get(keeper.backbone.remote())[0])
        return shared.open(device)


@contextmanager
def offered_backbone(recipe: BackboneRecipe, processes: int, *, on_gpus: bool) -> Iterator[OfferedBackbone]:
    """Decide how so many worker processes get a backbone, which they can while the block runs."""
    shares_on_cpu = not on_gpus and (processes - 1) * recipe.private_bytes() > _KEEPER_BYTES
    if not recipe.shareable or (not shares_on_cpu and not has_other_nodes()):
        yield OfferedBackbone(recipe, None, shares_on_cpu)
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    keeper = ray.remote(BackboneKeeper).options(**options).remote(recipe)
    try:
        yield OfferedBackbone(recipe, keeper, shares_on_cpu)
    finally:
        ray.kill(keeper)
