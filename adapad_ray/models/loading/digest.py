"""Digests that identify a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
            for plain in _plain(tensor):
                digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
                digest.update(plain.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _plain(tensor: Tensor) -> list[Tensor]:
    """The tensor, or those that a quantised subclass of Tensor consists of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    parts: list[Tensor] = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return parts


def _begin(pooling: Pooling) -> hashlib._Hash:
    return hashlib.sha256(f"pooling {pooling}\n".encode())
