"""CP components (2606.00428): rank-1 terms of a four-way tensor instead of rank-1 matrices.

Both sides of W `[d_out, d_in]` are split in two, d_out = p·q and d_in = r·s, and W is read row by row as a tensor
`[p, q, r, s]`. A component of its CP decomposition has one vector for each mode and a scale:

    T(ΔW) = Σ_i λ_i u_i ∘ v_i ∘ w_i ∘ z_i        ΔW = Σ_i λ_i (u_i ⊗ v_i)(w_i ⊗ z_i)ᵀ        |u_i| = … = |z_i| = 1

As a matrix a component has rank 1, and its vectors are Kronecker products, so ΔW is never formed and LoRA factors
express it exactly. It has p + q + r + s + 1 parameters: 193 on 2048 × 2048 split as 32 × 64 × 32 × 64, where a LoRA
rank has 4096.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from adapad_ray.adapters.families import Block, Family
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError

Size = Annotated[int, Field(ge=1)]
Split = tuple[Size, Size, Size, Size]
"""Sizes `(p, q, r, s)` of the four modes: d_out = p·q, d_in = r·s."""
Splits = dict[str, Split]
"""Module → split; a key is a module's path or a dotted suffix of it, as in `target_modules`."""

MODES = ("out_1", "out_2", "in_1", "in_2")


def most_square(features: int) -> tuple[int, int]:
    """Return the two factors of `features` that are nearest to each other, the smaller first: 768 = 24 · 32."""
    smaller = max(i for i in range(1, math.isqrt(features) + 1) if features % i == 0)
    return smaller, features // smaller


class CpBlock(Block):
    """n CP components. The trained vectors are unconstrained; the forward pass scales them to unit length.

    Vectors start in a random direction with length 1 and λ starts at 0, so the block starts as no update and the first
    step moves λ alone (not published; this project's choice). The length matters: a step of Adam moves every entry by
    the learning rate, so a shorter vector turns faster. Weight decay has no other effect on it.
    """

    def __init__(self, shape: ModuleShape, size: int, split: Split, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        self.split = split
        self.scale = nn.Parameter(torch.zeros(size))
        self.modes = nn.ParameterList(
            F.normalize(torch.randn(size, width, generator=generator), dim=-1) for width in split
        )

    def vectors(self) -> tuple[Tensor, Tensor]:
        return _vectors(self.scale, list(self.modes))

    @property
    def kind(self) -> Hashable:
        return self.split

    @staticmethod
    def stacked_vectors(parameters: Mapping[str, Tensor], constants: Tensor | None) -> tuple[Tensor, Tensor]:
        return _vectors(parameters["scale"], [parameters[f"modes.{i}"] for i in range(len(MODES))])

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """Return the scale λ `[n]` and the four modes `[n, size]` as unit vectors, recovered from `a` and `b`."""
        p, q, r, s = self.split
        b_length, out_1, out_2 = _factors(b, p, q)
        a_length, in_1, in_2 = _factors(a, r, s)
        modes = zip(MODES, (out_1, out_2, in_1, in_2), strict=True)
        return {"scale": (a_length * b_length).to(a)} | {name: mode.to(a) for name, mode in modes}


class Cp(Family):
    """CP components.

    Args:
        splits: sizes of the modes by module; other modules are split as squarely as possible, a project default.
    """

    name = "cp"

    def __init__(self, splits: Splits | None = None) -> None:
        self.splits = splits or {}

    def check(self, modules: Sequence[ModuleShape]) -> None:
        """Check that every entry of `splits` is used and fits its modules.

        Raises:
            BadRequestError: an entry is unused or does not fit.
        """
        used = {self._key(shape.name) for shape in modules if self.split(shape)}
        unused = [key for key in self.splits if key not in used]
        if unused:
            raise BadRequestError(f"splits has an entry {unused[0]!r} that applies to no adapted module: remove it")

    def split(self, shape: ModuleShape) -> Split:
        """Return the sizes of the four modes on this module; of several matching entries the longest applies.

        Raises:
            BadRequestError: the entry's sizes do not multiply to those of the module.
        """
        key = self._key(shape.name)
        if key is None:
            return (*most_square(shape.out_features), *most_square(shape.in_features))
        p, q, r, s = self.splits[key]
        if (p * q, r * s) != (shape.out_features, shape.in_features):
            raise BadRequestError(
                f"splits.{key} is [{p}, {q}, {r}, {s}], which makes {p * q} × {r * s} where {shape.name} is "
                f"{shape.out_features} × {shape.in_features}: the first two must multiply to its output features and "
                "the last two to its input features"
            )
        return p, q, r, s

    def _key(self, module: str) -> str | None:
        matching = (key for key in self.splits if module == key or module.endswith(f".{key}"))
        return max(matching, key=len, default=None)

    def cost(self, shape: ModuleShape) -> int:
        return sum(self.split(shape)) + 1

    def gain(self, shape: ModuleShape) -> float:
        """Return √d_out: λ is the length of b, and a step of Adam moves it only as far as each entry of a plain b.

        Not published; this project's choice. On MiniLM-L6, with 41k parameters and learning rate 2e-3, the loss after
        120 steps was 0.58 without it and 0.51 with it; LoRA had 0.50 and the frozen backbone 0.59.
        """
        return math.sqrt(shape.out_features)

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> CpBlock:
        return CpBlock(shape, size, self.split(shape), generator)


def _vectors(scale: Tensor, modes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """a `[…, n, d_in]` and b `[…, n, d_out]` from the scales `[…, n]` and the four modes `[…, n, size]`."""
    out_1, out_2, in_1, in_2 = (F.normalize(mode, dim=-1) for mode in modes)
    return _kronecker(in_1, in_2), scale.unsqueeze(-1) * _kronecker(out_1, out_2)


def _kronecker(u: Tensor, v: Tensor) -> Tensor:
    """Return `u_i ⊗ v_i` for every row i: `[n, p], [n, q]` → `[n, p·q]`."""
    return (u.unsqueeze(-1) * v.unsqueeze(-2)).flatten(-2)


def _factors(vectors: Tensor, p: int, q: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return length `[n]` and unit factors `[n, p]`, `[n, q]` of rows that are Kronecker products (one-term SVDs)."""
    u, lengths, vh = torch.linalg.svd(vectors.double().view(-1, p, q), full_matrices=False)
    return lengths[:, 0], u[:, :, 0], vh[:, 0]
