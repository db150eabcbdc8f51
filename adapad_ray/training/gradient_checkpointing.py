"""Less memory for more time: layers that forget their activations and compute them again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from adapad_ray.errors import BadRequestError


@contextmanager
def recomputed_layers(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Lets every repeated layer of a transformers model keep its inputs only, as long as the context is open.

    transformers does so for layers in training mode alone. Ours stay in evaluation mode, since the backbone is frozen
    and has no dropout: the flag is set on the layers themselves, not on what is inside them.

    Raises:
        BadRequestError: the model has no layers that can do it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if on else []
    if on and not layers:
        raise BadRequestError(
            f"training.gradient_checkpointing is true, but {type(model).__name__} has no layers for it: leave it out"
        )
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.gradient_checkpointing, layer.training = False, training
            del layer._gradient_checkpointing_func
