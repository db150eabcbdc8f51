"""Backward passes through a backbone in fp16, whose smallest number is 6e-8: gradients are scaled up on their way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LARGEST_SCALE = 2.0**14
"""Where every pass starts. Ours; scales are powers of two, so that they cost no precision."""


def scaled_backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Adds the gradients of `loss` to `parameters` (fp32), as if nothing had been scaled.

    Where a gradient overflows, the pass is repeated with a sixteenth of the scale, down to 1. Every pass starts anew,
    so that a resumed cell repeats an undisturbed one; what is not finite without scaling stays so.
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
