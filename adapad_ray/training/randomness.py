"""Every random number of a cell comes from a generator whose seed is derived here."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all `parts`, the same on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded from `parts`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def epoch_batches(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, *, group_by_length: bool
) -> list[np.ndarray]:
    """Row numbers of every batch of one epoch, in order: a function of (seed, epoch) and the data alone.

    With `group_by_length` the examples are drawn into pools of up to 50 batches, sorted by length inside a pool, and
    the resulting batches are shuffled: every epoch covers every example once, with far less padding.
    """
    draw = generator(seed, "order", epoch)
    if not group_by_length:
        rows = torch.randperm(len(lengths), generator=draw).numpy()
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    rows = np.array(get_length_grouped_indices(lengths.tolist(), batch_size, generator=draw))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]
