"""Post-hoc rank allocation: the singular values of finished LoRA updates, and which of them to keep.

PARA (2604.27796) takes the compact SVD of every ΔW = B A from the factors, without forming ΔW, puts the singular values
of all modules into one pool and keeps those that reach one threshold. The paper leaves open ties, budgets in
parameters, and the order in which the controls `local` and `uniform` drop values; this project's choices are marked
below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapad_ray.budget import BudgetTooSmallError, check_fits_one
from adapad_ray.errors import BadRequestError
from adapad_ray.wording import counted

Cut = Literal["global", "local", "uniform"]
"""`global`: one pool over all modules. `local`: every module keeps the same share of its own energy. `uniform`: every
module keeps the same rank. (The paper calls the last one local.)"""


@dataclass(frozen=True)
class KeepRatio:
    """γ of the paper: this share of all singular values."""

    share: float

    def __post_init__(self) -> None:
        _check_share("keep ratio", self.share)


@dataclass(frozen=True)
class KeepEnergy:
    """ε of the paper: the fewest values that hold this share of the energy Σσ²."""

    share: float

    def __post_init__(self) -> None:
        _check_share("keep energy", self.share)


@dataclass(frozen=True)
class KeepParameters:
    """As many values as fit into this number of adapter parameters (a project addition: the paper counts values)."""

    budget: int
    per_parameter: bool = False
    """Whether the global pool is ordered by energy per parameter, σ² / (d_in + d_out), instead of by σ: of two equal
    values the one on the smaller module comes first. A project addition."""


Keep = KeepRatio | KeepEnergy | KeepParameters


@dataclass(frozen=True)
class Spectrum:
    """The compact SVD of one module's update, ΔW = U diag(σ) Vᵀ, in float64."""

    u: Tensor
    """`[d_out, n]`, orthonormal columns."""
    values: Tensor
    """σ `[n]`, descending, without those that are zero to working precision."""
    vt: Tensor
    """`[n, d_in]`, orthonormal rows."""
    rank: int
    """Components of the factors before the SVD; n is at most that."""

    @property
    def cost(self) -> int:
        """Parameters of one component: `d_in + d_out`."""
        return self.u.shape[0] + self.vt.shape[1]

    @property
    def energies(self) -> Tensor:
        """σ² `[n]`."""
        return self.values.square()

    def energy(self, rank: int | None = None) -> float:
        """Return Σσ² of the first `rank` values, by default of all: the squared Frobenius norm of that update."""
        return float(self.energies[:rank].sum())

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the best approximation of this rank as `(A [rank, d_in], B [d_out, rank])`, √σ in either factor."""
        root = self.values[:rank].sqrt()
        return root[:, None] * self.vt[:rank], self.u[:, :rank] * root


def spectrum(a: Tensor, b: Tensor) -> Spectrum:
    """Return the compact SVD of B A from `a [r, d_in]` and `b [d_out, r]` in O((d_in + d_out) r² + r³).

    B = Q_B R_B and Aᵀ = Q_A R_A, so B A = Q_B (R_B R_Aᵀ) Q_Aᵀ, and only the small matrix in the middle needs an SVD
    (2604.27796, phase 1).
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, values, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    # A module that was never trained has B = 0, and a threshold of 0 would keep all of it.
    noise = values[:1].sum() * torch.finfo(torch.float64).eps * max(a.shape[1], b.shape[0])
    n = int((values > noise).sum())
    return Spectrum(q_b @ u[:, :n], values[:n], vt[:n] @ q_a.T, rank=a.shape[0])


def allocate(spectra: Mapping[str, Spectrum], keep: Keep, cut: Cut = "global") -> dict[str, int]:
    """Return the rank of every module after the cut, without the modules that keep nothing.

    A ratio or an energy becomes one threshold, and every value that reaches it is kept; with equal values these may be
    more than requested. A budget is never exceeded: values are taken in descending order, those that no longer fit are
    skipped (uniform: rank by rank, on all modules or none), and ties go to the earlier module.

    Raises:
        BudgetTooSmallError: the budget has no room for a single value (global), or for one on every module.
        BadRequestError: all updates are zero.
    """
    nonzero = {name: s for name, s in spectra.items() if len(s.values)}
    if not nonzero:
        raise BadRequestError("the adapter changes nothing: every update B A is zero, so there is nothing to keep")
    if isinstance(keep, KeepParameters):
        ranks = _within_budget(nonzero, keep, cut)
    elif isinstance(keep, KeepEnergy) and cut == "local":
        ranks = {name: _enough(s.energies, keep.share) for name, s in nonzero.items()}
    else:
        ranks = _above_threshold(spectra, nonzero, keep, cut)
    return {name: rank for name, rank in ranks.items() if rank}


def update_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return the Frobenius norm of B₁A₁ - B₂A₂ from factors `(A [r, d_in], B [d_out, r])`, forming neither product."""
    a = torch.cat([first[0].double(), second[0].double()])
    b = torch.cat([first[1].double(), -second[1].double()], dim=1)
    return float((torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T).norm())


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise BadRequestError(f"{name} {share} must be above 0 and at most 1")


def _priorities(spectrum: Spectrum, cut: Cut) -> Tensor:
    """Return the priority of each value of a module, never increasing along the module."""
    if cut == "global":
        return spectrum.values
    if cut == "uniform":
        return -torch.arange(len(spectrum.values), dtype=torch.float64)
    # Share of the module's energy that is missing before the value is taken; 1 for the first of every module.
    tail = spectrum.energies.flip(0).cumsum(0).flip(0)
    return tail / tail[0]


def _enough(energies: Tensor, share: float) -> int:
    """Return the smallest number of leading values that hold `share` of the energy."""
    held = energies.cumsum(0)
    # The last sum is the total: any other would let a share of 1 run off the end.
    return min(int(torch.searchsorted(held, share * held[-1])), len(held) - 1) + 1


def _above_threshold(
    spectra: Mapping[str, Spectrum], nonzero: Mapping[str, Spectrum], keep: KeepRatio | KeepEnergy, cut: Cut
) -> dict[str, int]:
    priorities = {name: _priorities(s, cut) for name, s in nonzero.items()}
    pool, order = torch.cat(list(priorities.values())).sort(descending=True, stable=True)
    if isinstance(keep, KeepRatio):
        count = min(len(pool), max(1, round(keep.share * sum(s.rank for s in spectra.values()))))
    else:
        count = _enough(torch.cat([s.energies for s in nonzero.values()])[order], keep.share)
    threshold = pool[count - 1]
    return {name: int((values >= threshold).sum()) for name, values in priorities.items()}


def _within_budget(nonzero: Mapping[str, Spectrum], keep: KeepParameters, cut: Cut) -> dict[str, int]:
    costs = {name: s.cost for name, s in nonzero.items()}
    one_each = sum(costs.values())
    if cut == "global":
        check_fits_one(keep.budget, costs.values())
    elif keep.budget < one_each:
        raise BudgetTooSmallError(
            f"budget {keep.budget:,} is below one component on each of {counted(len(nonzero), 'module')} "
            f"({one_each:,}): raise it, or cut globally"
        )
    ranks = dict.fromkeys(nonzero, 0)
    remaining = keep.budget
    if cut == "uniform":
        for rank in range(1, 1 + max(len(s.values) for s in nonzero.values())):
            deep = [name for name, s in nonzero.items() if len(s.values) >= rank]
            remaining -= sum(costs[name] for name in deep)
            if remaining < 0:
                break
            ranks |= dict.fromkeys(deep, rank)
        return ranks
    if keep.per_parameter and cut == "global":
        priorities = {name: s.energies / s.cost for name, s in nonzero.items()}
    else:
        priorities = {name: _priorities(s, cut) for name, s in nonzero.items()}
    queue = [name for name, values in priorities.items() for _ in values]
    for i in torch.cat(list(priorities.values())).sort(descending=True, stable=True).indices.tolist():
        name = queue[i]
        # A value that does not fit is skipped; no later value of its module fits either, so a module keeps its largest.
        if costs[name] <= remaining:
            ranks[name] += 1
            remaining -= costs[name]
    return ranks
