"""The backbone: a frozen pretrained model with a fresh task head."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.quantized import logical_size
from adapad_ray.models.source import Pooling
from adapad_ray.models.target_modules import base_prefix
from adapad_ray.models.task_models import LINEAR, LinearModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Backbone:
    """A frozen model with a fresh task head; every parameter has `requires_grad=False`."""

    name: str
    """As the user gave it: a packaged name, a folder or a Hub name."""
    model: nn.Module
    """Takes `input_ids, attention_mask[, token_type_ids]` `[batch, tokens]`, `pixel_values`, or `inputs_embeds`. Its
    output has `.logits`, or `.start_logits` and `.end_logits` for spans."""
    tokenizer: Any
    """None for a model that reads no texts."""
    head_modules: tuple[str, ...]
    """Paths of the layers to train as the head (see `head.find_head_modules`)."""
    pooling: Pooling
    digest: str
    """sha256 over pooling, configuration and pretrained weights."""
    parameters: int
    """Number of parameters of the backbone, head apart."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the checkpoint; one sentence each."""

    @property
    def pad_token_id(self) -> int:
        """The token that fills up batches; 0, which is never read, without a tokenizer."""
        return 0 if self.tokenizer is None else int(self.tokenizer.pad_token_id)

    def twin(self) -> Backbone:
        """The same frozen weights, not copied, in modules of their own, with a head of its own: for a cell that trains
        beside others."""
        own = {id(p) for path in self.head_modules for p in self.model.get_submodule(path).parameters()}
        tensors = chain(self.model.parameters(), self.model.buffers())
        # deepcopy treats what is in its memo as copied.
        shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors if id(tensor) not in own}
        return replace(self, model=copy.deepcopy(self.model, shared))


def linear_backbone(in_features: int, out_features: int, *, dtype: str = "float32", device: str = "cpu") -> Backbone:
    """Make a `LinearModel`; it has neither tokenizer nor head.

    Raises:
        BadRequestError: the dtype is unknown.
    """
    with torch.device(device):
        model = LinearModel(in_features, out_features, parse_dtype(dtype)).requires_grad_(False).eval()
    digest = hashlib.sha256(f"{LINEAR} {in_features} {out_features}\n".encode()).hexdigest()
    return Backbone(LINEAR, model, None, (), "own", digest, backbone_parameters(model))


def backbone_parameters(model: nn.Module, head_modules: Sequence[str] = ()) -> int:
    """Count the parameters of the base model, without those of `head_modules` inside it.

    Leave `head_modules` out for a skeleton: its head is everything outside the base model. The output embedding of a
    language model is no task head. It counts, once where it is tied to the input embedding.
    """
    predicts_tokens = getattr(model, "get_output_embeddings", lambda: None)() is not None
    base = "" if predicts_tokens else base_prefix(model)
    return sum(
        logical_size(parameter)
        for name, parameter in model.named_parameters()
        if name.startswith(base) and name.rpartition(".")[0] not in head_modules
    )


def parse_dtype(name: str) -> torch.dtype:
    """Return the dtype of this name.

    Raises:
        BadRequestError: the name is unknown.
    """
    if name not in _DTYPES:
        raise BadRequestError(f"dtype {name!r} is unknown: use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
