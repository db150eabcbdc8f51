"""Splits without content, to plan with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AssumedSplit:
    """Examples of one length without content: enough to count and to time."""

    count: int
    length: int
    """Tokens of each."""
    make: Callable[[int], dict[str, np.ndarray]]
    """The batch of so many examples."""
    can_share_rows: bool = False
    """Whether they are prompts with answers."""

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """The same for all, int64 `[examples]`."""
        return np.full(self.count, self.length, dtype=np.int64)

    @property
    def labels(self) -> np.ndarray:
        """Zeros, int64 `[examples]`."""
        return np.zeros(self.count, dtype=np.int64)

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """As many examples as there are indices."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.make(len(indices)).items()}

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, twice: there is no padding. The batch's first array has one row per example."""
        tokens = len(next(iter(batch.values()))) * self.length
        return tokens, tokens

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once, in order."""
        return batches_in_order(self.count, batch_size)


def batches_in_order(count: int, batch_size: int) -> list[np.ndarray]:
    """Index arrays that cover so many examples once, in order."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
