"""The frozen backbone in the object store: one copy a node, read in place by every worker."""

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
    """What `ray.put` takes: numpy arrays come out of the object store without a copy, torch tensors do not."""

    frame: Backbone
    """The backbone with every parameter on the meta device; buffers and tokenizer are real."""
    weights: Mapping[str, tuple[np.ndarray, torch.dtype]]
    """Parameter name → its bytes, and the type they stand for; numpy has no bfloat16. The head's are not among them."""
    head: Mapping[str, Tensor]


def share_backbone(backbone: Backbone) -> SharedBackbone:
    """Takes a backbone on the CPU apart; it is not changed."""
    weights, head = {}, {}
    empty: dict[int, Any] = {}
    for name, p in backbone.model.named_parameters():
        empty[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        if name.startswith(tuple(f"{module}." for module in backbone.head_modules)):
            head[name] = p.detach()
        else:
            weights[name] = p.detach().flatten().view(torch.uint8).numpy(), p.dtype
    # deepcopy takes what is in its memo for copied already, so no weight is copied, and tied weights stay tied.
    return SharedBackbone(replace(backbone, model=copy.deepcopy(backbone.model, empty)), weights, head)


def open_backbone(shared: SharedBackbone, device: str) -> Backbone:
    """Puts a backbone together again. On the CPU its weights are the shared memory itself: nobody may write them."""
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
