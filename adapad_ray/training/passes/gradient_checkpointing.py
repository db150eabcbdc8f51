"""Less memory for more time: layers drop their activations and compute them again in the backward pass."""

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
    """Makes every repeated layer of a transformers model keep only its inputs, while the context is open.

    transformers does so in training mode only. The backbone here stays in evaluation mode, so that its dropout is off:
    the flag is set on the layers themselves, not on their submodules.

    Raises:
        BadRequestError: the model has no layers that support it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if on else []
    if on and not layers:
        raise BadRequestError(
            f"training.gradient_checkpointing is true, but {type(model).__name__} has no layers that "
            "support it: set it to false"
        )
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.gradient_checkpointing, layer.training = False, training
            del layer._gradient_checkpointing_func
