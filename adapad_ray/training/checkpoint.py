"""The state of a cell in training: one safetensors file, JSON among its tensors, replaced atomically."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from adapad_ray.files import atomic_path

_FILE, _META = "checkpoint.safetensors", "meta"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of the training depends on."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    """JSON."""

    def save(self, folder: Path) -> None:
        """Replaces the checkpoint in `folder`: a kill at any moment leaves the old one or the new one, whole.

        One file, so that whoever reads while another writes (a worker that is not dead yet) gets one of the two too.
        """
        with atomic_path(folder / _FILE) as scratch:
            tensors = {name: t.contiguous() for name, t in self.tensors.items()}
            save_file(tensors | {_META: torch.tensor(list(json.dumps(self.meta).encode()), dtype=torch.uint8)}, scratch)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """The latest checkpoint, or None where there is none."""
        try:
            # Read at one go: whatever opens the path twice may meet two checkpoints.
            tensors = load((folder / _FILE).read_bytes())
        except FileNotFoundError:
            return None
        meta = bytes(tensors.pop(_META).tolist())
        return cls(tensors, json.loads(meta))

    @staticmethod
    def remove(folder: Path) -> None:
        """Deletes a checkpoint, and what kills while saving have left beside it."""
        shutil.rmtree(folder, ignore_errors=True)
