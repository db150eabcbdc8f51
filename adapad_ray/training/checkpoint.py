"""The state of a cell in training: one safetensors file with JSON in its header, replaced atomically."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapad_ray.files import atomic_path

_FILE, _META = "checkpoint.safetensors", "state"


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
            save_file(tensors, scratch, metadata={_META: json.dumps(self.meta)})

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """The latest checkpoint, or None where there is none."""
        try:
            with safe_open(folder / _FILE, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                return cls(tensors, json.loads(file.metadata()[_META]))
        except FileNotFoundError:
            return None

    @staticmethod
    def remove(folder: Path) -> None:
        """Deletes a checkpoint, and what kills while saving have left beside it."""
        shutil.rmtree(folder, ignore_errors=True)
