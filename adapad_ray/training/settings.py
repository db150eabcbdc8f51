"""How a cell is trained: the settings that every method shares."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DATA_SETTINGS = ("max_length", "max_train_examples", "max_validation_examples", "max_test_examples")
"""Settings that shape the data: data are tokenised once, for all methods of a sweep alike."""


class TrainingSettings(BaseModel):
    """Optimizer, schedule and caps, for every method alike.

    The default is AdamW with a linear warm-up and a linear decay to zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    max_length: int = Field(default=128, ge=1)
    """Tokens; longer texts are cut."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` is plain gradient descent, without momentum: the local solver of the linear theory (2605.10741). No choice
    for a network."""
    learning_rate: float = Field(default=2e-3, gt=0)
    lr_scheduler_type: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: a linear decay to zero, or nothing."""
    warmup_fraction: float = Field(default=0.06, ge=0, lt=1)
    """Share of the optimizer steps in which the learning rate rises linearly."""
    component_warmup_steps: int = Field(default=5, ge=0)
    """Warm-up of a component or head that is born during training, on top of the global schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped per lane to this norm."""
    group_by_length: bool = True
    """Whether batches hold texts of similar length, in random order: less padding, the same examples per epoch."""
    evaluation_batch_size: int = Field(default=64, ge=1)
    max_train_examples: int | None = Field(default=None, ge=1)
    max_validation_examples: int | None = Field(default=None, ge=1)
    max_test_examples: int | None = Field(default=None, ge=1)

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
        return (total_steps - step) / max(1, total_steps - warmup)
