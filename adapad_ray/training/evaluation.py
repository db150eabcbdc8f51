"""Logits of a whole split."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from adapad_ray.tasks import Split


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, *, batch_size: int, pad_token_id: int, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Logits `float32 [n, outputs]` in the split's own order; batches hold texts of similar length."""
    logits: np.ndarray | None = None
    for rows in split.evaluation_batches(batch_size):
        batch = split.batch(rows, pad_token_id)
        batch.pop("labels")
        out = model(**{key: value.to(device) for key, value in batch.items()}).logits.float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(split), out.shape[1]), dtype=np.float32)
        logits[rows] = out
    assert logits is not None, "an empty split is refused before training"
    return logits
