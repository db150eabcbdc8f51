"""Backward passes, with scaled gradients where the backbone is in fp16, whose smallest number is 6e-8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

LARGEST_SCALE = 2.0**14
"""Where every pass starts: a project default. Scales are powers of two, so they cost no precision."""

Backward = Callable[[Tensor, Sequence[nn.Parameter]], None]
"""Adds the gradients of a loss to the given parameters."""


def backward_for(model: nn.Module) -> Backward:
    """The backward pass that fits the dtype of `model`."""
    half = any(p.dtype == torch.float16 for p in model.parameters())
    return scaled_backward if half else plain_backward


def plain_backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Adds the gradients of `loss`, as autograd computes them."""
    torch.autograd.backward(loss)


def scaled_backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Adds the gradients of `loss` to `parameters` (fp32), computed from a scaled loss and scaled back.

    Where a gradient overflows, the pass is repeated with a sixteenth of the scale, down to 1. Every pass starts with
    the largest scale, so that a resumed cell repeats an undisturbed one. A gradient that is not finite without scaling
    stays so. Whether one overflows is decided on the host, which waits for the device once a pass or more: the price of
    fp16, which no other precision pays.
    """
    scale = LARGEST_SCALE
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    while True:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(loss * scale, retain_graph=scale > 1)
        grads = [p.grad for p in parameters if p.grad is not None]
        if scale <= 1 or not grads or torch.stack([torch.isfinite(grad).all() for grad in grads]).all():
            break
        scale = max(1.0, scale / 16)
    for parameter, grad in zip(parameters, before, strict=True):
        if parameter.grad is not None:
            parameter.grad.div_(scale)
            if grad is not None:
                parameter.grad.add_(grad)
        else:
            parameter.grad = grad
