"""Seeds and generators: every random number of a cell comes from a generator whose seed is derived here."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all `parts`, the same on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded from `parts`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
