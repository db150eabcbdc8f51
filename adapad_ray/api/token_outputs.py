"""What TRL's `SFTTrainer` reads from a language model: one value per token in place of the logits.

It calls the model with `fused_lm_head=True` and makes the loss itself, `-log_probs.sum() / label_mask.sum()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

IGNORED = -100
"""Label of a token that is not to be predicted."""


@dataclass
class TokenOutput(ModelOutput):  # type: ignore[misc]
    """The fields of TRL's own output, `[batch, tokens - 1]` each: the next token's, zero where its label is ignored."""

    loss: Tensor | None = None
    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    is_top1: Tensor | None = None
    label_mask: Tensor | None = None


def of_training(loss: Tensor, labels: Tensor) -> TokenOutput:
    """An output whose loss is that of an attached method, which is a sum over lanes and has no tokens of its own.

    Entropy and accuracy are unknown (NaN): every lane has others.
    """
    mask = labels[:, 1:] != IGNORED
    unknown = torch.full(mask.shape, torch.nan, device=loss.device)
    log_probs = (-loss * mask.sum().clamp(min=1)).reshape(1, 1)
    return TokenOutput(loss=loss, log_probs=log_probs, entropy=unknown, is_top1=unknown, label_mask=mask)


def of_logits(logits: Tensor, labels: Tensor) -> TokenOutput:
    """The output for logits `[batch, tokens, vocabulary]`."""
    predicted, labels = logits[:, :-1].float().log_softmax(-1), labels[:, 1:]
    mask = labels != IGNORED
    log_probs = predicted.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) * mask
    entropy = -(predicted.exp() * predicted).sum(-1) * mask
    loss = -log_probs.sum() / mask.sum().clamp(min=1)
    top = (predicted.argmax(-1) == labels) & mask
    return TokenOutput(loss=loss, log_probs=log_probs, entropy=entropy, is_top1=top, label_mask=mask)
