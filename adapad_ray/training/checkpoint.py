"""The state of a cell in training: one safetensors file and one JSON file, written atomically."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _META = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of the training depends on."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Replaces the checkpoint in `folder`: a kill at any moment leaves the old one or the new one, whole."""
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file({name: t.contiguous() for name, t in self.tensors.items()}, scratch / _TENSORS)
        (scratch / _META).write_text(json.dumps(self.meta))
        retired = folder.with_name(f".{folder.name}.old")
        if folder.exists():  # else the retired one may be the only whole one, from a kill between the renames below
            shutil.rmtree(retired, ignore_errors=True)
            folder.rename(retired)
        scratch.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """The latest whole checkpoint, or None; a kill between the renames of `save` leaves it under the old name."""
        for place in (folder, folder.with_name(f".{folder.name}.old")):
            if (place / _META).exists():
                return cls(load_file(place / _TENSORS), json.loads((place / _META).read_text()))
        return None

    @staticmethod
    def remove(folder: Path) -> None:
        """Deletes a checkpoint, and what kills while saving have left beside it."""
        for place in (folder, *folder.parent.glob(f".{folder.name}.*")):
            shutil.rmtree(place, ignore_errors=True)
