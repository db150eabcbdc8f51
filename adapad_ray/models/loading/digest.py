"""Digests that identify a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from adapad_ray.models.source import Pooling

_CHUNK_BYTES = 1 << 20


def files_digest(pooling: Pooling, files: Iterable[Path]) -> str:
    """sha256 over the pooling and the files, which are read in chunks."""
    digest = _begin(pooling)
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def weights_digest(pooling: Pooling, model: Any, head: Sequence[str]) -> str:
    """sha256 over the pooling, the configuration and all weights but the head's: for a model that was not read here."""
    digest = _begin(pooling)
    digest.update(model.config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in head:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _begin(pooling: Pooling) -> hashlib._Hash:
    return hashlib.sha256(f"pooling {pooling}\n".encode())
