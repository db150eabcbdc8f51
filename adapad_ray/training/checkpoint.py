"""Checkpoints of a cell in training: one safetensors file, replaced atomically, and when to write it."""

from __future__ import annotations

import json
import shutil
import time
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
    """JSON; stored as a tensor of bytes."""

    def save(self, folder: Path) -> None:
        """Replaces the checkpoint in `folder`; a kill at any moment leaves the old one or the new one, whole.

        It is one file, so that a process that reads while another writes (a worker that is not dead yet) also gets one
        of the two.
        """
        with atomic_path(folder / _FILE) as scratch:
            tensors = {name: t.contiguous() for name, t in self.tensors.items()}
            save_file(tensors | {_META: torch.tensor(list(json.dumps(self.meta).encode()), dtype=torch.uint8)}, scratch)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """The latest checkpoint, or None where there is none."""
        try:
            # Read in one go: a reader that opens the path twice may meet two checkpoints.
            tensors = load((folder / _FILE).read_bytes())
        except FileNotFoundError:
            return None
        meta = bytes(tensors.pop(_META).tolist())
        return cls(tensors, json.loads(meta))

    @staticmethod
    def remove(folder: Path) -> None:
        """Deletes a checkpoint and the scratch files that kills while saving have left beside it."""
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class CheckpointPolicy:
    """How often a checkpoint is saved; always at the end of a round."""

    seconds: float = 60.0
    """After this time since the last one."""
    rounds: int | None = None
    """Or after this number of rounds, whichever comes first."""


class Checkpointer:
    """Saves checkpoints to `folder` as often as `policy` wants."""

    def __init__(self, folder: Path, policy: CheckpointPolicy | None = None) -> None:
        self.folder, self.policy = folder, policy or CheckpointPolicy()
        self.begin(0)

    def begin(self, version: int) -> None:
        """Counts time and rounds from now and from round `version`."""
        self._saved_at, self._saved_version = time.perf_counter(), version

    def due(self, version: int) -> bool:
        """Whether a checkpoint should be saved at the end of round `version`."""
        if time.perf_counter() - self._saved_at >= self.policy.seconds:
            return True
        return self.policy.rounds is not None and version - self._saved_version >= self.policy.rounds

    def save(self, version: int, checkpoint: Checkpoint) -> None:
        """Saves the `checkpoint` of round `version`."""
        checkpoint.save(self.folder)
        self.begin(version)
