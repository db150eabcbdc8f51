"""The training settings that all methods share."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DATA_SETTINGS = ("max_length", "max_train_examples", "max_validation_examples", "max_test_examples")
"""Settings that shape the data, which are tokenised once for all methods of a sweep."""

_MOST = 10**6
"""Texts or tokens at a time; larger values are typing errors and would not fit into memory."""


class TrainingSettings(BaseModel):
    """Optimizer, schedule and caps.

    The default is AdamW with a linear warm-up and a linear decay to zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: float = Field(default=3.0, gt=0, le=1e6)
    batch_size: int = Field(default=16, ge=1, le=_MOST)
    micro_batch_size: int | None = Field(default=None, ge=1, le=_MOST)
    """Most examples of one forward and backward pass, where a batch does not fit into memory; the gradients of its
    parts add up. Null: the whole batch."""
    max_length: int = Field(default=128, ge=1, le=_MOST)
    """Tokens; longer texts are truncated."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` is plain gradient descent without momentum, the local solver of the linear theory (2605.10741). It is not
    meant for networks."""
    learning_rate: float = Field(default=2e-3, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up: a linear decay to zero, half a cosine to zero, or a constant rate."""
    warmup_fraction: float = Field(default=0.06, ge=0, lt=1)
    """Share of the optimizer steps in which the learning rate rises linearly."""
    component_warmup_steps: int = Field(default=5, ge=0, le=2**53)
    """Warm-up of a component or head that is created during training, on top of the global schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped per lane to this norm."""
    group_by_length: bool = True
    """Whether batches hold texts of similar length, in random order: less padding, the same examples per epoch."""
    pad_to_multiple_of: int = Field(default=1, ge=1, le=1024)
    """Training batches are as wide as their longest text, rounded up to this; must divide `max_length`."""
    pack_sequences: bool = False
    """Whether the texts of a batch share rows, as few as hold them at the length of the longest: less padding, the same
    loss and gradients. For causal language models that tell texts apart by their positions."""
    gradient_checkpointing: bool = False
    """Whether layers keep only their inputs and compute the rest again in the backward pass: much less memory for about
    a third more time. The FLOPs of a cell do not include the second pass."""
    deterministic: bool = False
    """Whether GPUs use deterministic algorithms where torch has them, which may be slower. CPUs always do."""
    evaluation_batch_size: int = Field(default=64, ge=1, le=_MOST)
    max_train_examples: int | None = Field(default=None, ge=1, le=2**53)
    max_validation_examples: int | None = Field(default=None, ge=1, le=2**53)
    max_test_examples: int | None = Field(default=None, ge=1, le=2**53)

    @model_validator(mode="after")
    def _widths_fit(self) -> TrainingSettings:
        if self.max_length % self.pad_to_multiple_of:
            raise ValueError(
                f"pad_to_multiple_of {self.pad_to_multiple_of} must divide max_length {self.max_length}: "
                "otherwise batches could be wider than the model reads"
            )
        return self

    def steps_per_epoch(self, examples: int) -> int:
        """Optimizer steps of one pass over `examples` training examples; the last batch may be smaller."""
        return -(-examples // self.batch_size)

    def total_steps(self, examples: int) -> int:
        """Optimizer steps of the whole training, at least one."""
        return max(1, round(self.epochs * self.steps_per_epoch(examples)))

    def schedule(self, step: int, total_steps: int) -> float:
        """Factor on the learning rate in optimizer step `step` (from 0)."""
        warmup = round(self.warmup_fraction * total_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.lr_scheduler_type == "constant":
            return 1.0
        left = (total_steps - step) / max(1, total_steps - warmup)
        return (1 - math.cos(math.pi * left)) / 2 if self.lr_scheduler_type == "cosine" else left
