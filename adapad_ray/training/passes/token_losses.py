"""The loss of answers, without the logits of all their tokens at one time.

With large vocabularies, fp32 logits and their gradients are a large part of a pass's memory. Here only tokens with a
label get logits, a few tokens at a time, and of each the gradient with respect to its state is kept instead: it does
not depend on other tokens, so nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.packs.packed_linear import PackedLinear
from adapad_ray.tasks.losses import Loss, answer_cross_entropy
from adapad_ray.training.batches import Batch
from adapad_ray.training.passes.sequence_packing import forward, output_of, states_replaced

MOST_LOGITS_ON_CPU, MOST_LOGITS_ON_GPU = 2**22, 2**26
"""Logits that are computed at one time: in fp32 a few times 16 MB and 256 MB. Project defaults."""

Post = Callable[[Tensor], Tensor]
"""What a model does with the products of its output embedding, number by number."""

_POSTS: WeakKeyDictionary[nn.Module, Post | None] = WeakKeyDictionary()
"""By model; None: something unknown."""


def example_losses(model: Any, batch: Batch, loss: Loss) -> Tensor:
    """Return the loss of every example `[batch]`: `loss(output, labels)`, in less memory where that is possible.

    That is for the mean cross-entropy of an answer's tokens, under a frozen output embedding. In fp16 gradients must be
    scaled before they are rounded, and where the embedding is adapted it learns from all logits.
    """
    if takes_chunks(model, loss) and _POSTS.get(model, _same):
        losses = _answer_losses(model, batch)
        if losses is not None:
            return losses
    return loss(forward(model, batch), batch.labels)


def takes_chunks(model: Any, loss: Loss) -> bool:
    """Return whether a model's logits are computed in chunks for this loss, as far as can be told without a pass."""
    embedding = model.get_output_embeddings() if loss is answer_cross_entropy else None
    if embedding is None or isinstance(embedding, AdaptedLinear | PackedLinear):
        return False
    return not any(p.requires_grad or p.dtype == torch.float16 for p in embedding.parameters())


def chunk_bytes(tokens: int, vocabulary: int, *, on_gpu: bool) -> int:
    """Return the bytes of a chunk: fp32 logits, what their softmax keeps, and the gradients of both."""
    return 4 * 4 * min(tokens * vocabulary, MOST_LOGITS_ON_GPU if on_gpu else MOST_LOGITS_ON_CPU)


def _answer_losses(model: Any, batch: Batch) -> Tensor | None:
    """The mean cross-entropy of every answer; None where nothing is learnt, or logits are made in an unknown way."""
    if batch.learnt is None or not batch.learnt.any():
        return None
    example, token = _moved(batch.learnt.nonzero(), batch.labels.device).unbind(1)
    kept: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        kept.append(states[batch.places(example, token)])
        return kept[0][:1, None].detach()

    embedding = model.get_output_embeddings()
    with states_replaced(embedding, keep):
        logits = output_of(model, batch).logits
    if model not in _POSTS and torch.isfinite(logits).all():
        _POSTS[model] = _post(model.config.get_text_config(), embedding, kept[0][:1, None], logits)
    if (post := _POSTS.get(model)) is None:
        return None
    arguments = kept[0], batch.labels[example, token], embedding, post, logits.shape[-1]
    losses: Tensor = _TokenLosses.apply(*arguments)  # type: ignore[no-untyped-call]
    of_examples = losses.new_zeros(batch.labels.shape).index_put((example, token), losses).sum(dim=1)
    return of_examples / _moved(batch.learnt.sum(dim=1), losses.device)


def _moved(on_host: Tensor, device: torch.device) -> Tensor:
    return on_host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else on_host


class _TokenLosses(torch.autograd.Function):
    """`-log softmax(post(embedding(state)))[label]` `[tokens]`, for states `[tokens, d]` and labels `[tokens]`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, labels: Tensor, embedding: nn.Module, post: Post, classes: int) -> Tensor:
        losses = states.new_empty(len(labels), dtype=torch.promote_types(states.dtype, torch.float32))
        gradients = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        most = max(1, (MOST_LOGITS_ON_CPU if states.device.type == "cpu" else MOST_LOGITS_ON_GPU) // classes)
        for first in range(0, len(labels), most):
            part = slice(first, first + most)
            own = states[part].detach().requires_grad_(gradients is not None)
            with torch.set_grad_enabled(gradients is not None):
                loss = F.cross_entropy(post(embedding(own)).to(losses.dtype), labels[part], reduction="none")
                losses[part] = loss.detach()
                if gradients is not None:
                    (gradients[part],) = torch.autograd.grad(loss.sum(), own)
        if gradients is not None:
            ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return (grad[:, None] * gradients).to(gradients.dtype), None, None, None, None


@torch.no_grad()
def _post(config: Any, embedding: nn.Module, state: Tensor, logits: Tensor) -> Post | None:
    """What makes a model's `logits` `[1, 1, vocabulary]` of the products of `state` `[1, 1, d]`; None if unknown."""
    post: Post = _same
    if cap := getattr(config, "final_logit_softcapping", None):
        post = lambda products: torch.tanh(products / cap) * cap  # noqa: E731 - a formula
    elif divisor := getattr(config, "logits_scaling", None):
        post = lambda products: products / divisor  # noqa: E731
    elif factor := getattr(config, "logit_scale", None):
        post = lambda products: products * factor  # noqa: E731
    return post if torch.equal(post(embedding(state)).to(logits.dtype), logits) else None


def _same(products: Tensor) -> Tensor:
    return products
