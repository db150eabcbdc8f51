"""The frozen backbone in the object store: one copy per node, which every worker reads in place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapad_ray.models import Backbone


@dataclass(frozen=True)
class SharedBackbone:
    """A backbone to pass to `ray.put`. Its weights are numpy arrays, which Ray reads without a copy, unlike tensors."""

    frame: Backbone
    """The backbone with every parameter on the meta device; buffers and tokenizer are real."""
    weights: Mapping[str, tuple[np.ndarray, torch.dtype]]
    """Parameter name → its bytes as uint8, and its dtype, because numpy has no bfloat16. Without the head."""
    head: Mapping[str, Tensor]


def share_backbone(backbone: Backbone) -> SharedBackbone:
    """Separate the weights of a backbone on the CPU from its structure. The backbone is not changed."""
    weights, head = {}, {}
    empty: dict[int, Any] = {}
    for name, p in backbone.model.named_parameters():
        empty[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        if name.startswith(tuple(f"{module}." for module in backbone.head_modules)):
            head[name] = p.detach()
        else:
            weights[name] = p.detach().flatten().view(torch.uint8).numpy(), p.dtype
    # deepcopy treats what is in its memo as copied, so no weight is copied, and tied weights stay tied.
    return SharedBackbone(replace(backbone, model=copy.deepcopy(backbone.model, empty)), weights, head)


def open_backbone(shared: SharedBackbone, device: str) -> Backbone:
    """Rebuild a backbone. On the CPU its weights are the shared memory itself and must not be written."""
    filled: dict[int, nn.Parameter] = {}
    parameters = dict(shared.frame.model.named_parameters())
    for name, (data, dtype) in shared.weights.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(data).view(dtype).view(parameters[name].shape)
        filled[id(parameters[name])] = nn.Parameter(tensor, requires_grad=False)
    for name, tensor in shared.head.items():
        filled[id(parameters[name])] = nn.Parameter(tensor.clone(), requires_grad=False)
    model = copy.deepcopy(shared.frame.model, dict(filled))
    return replace(shared.frame, model=model.to(device))
