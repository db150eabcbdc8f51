"""Convergence of single components, for tasks whose true components are known (2605.10741).

The error of component k is the relative distance of its published product from the k-th term of the SVD. A round ends
when all lanes publish their components; in sequential deflation, which has one lane, after the same number of local
steps. (A *lane* trains the k-th components of all modules on top of the components below.)

The paper bounds the error in round l ≥ s_k by 6 (l - s_k + 2) m_k^(l - s_k + 1) and gives neither m_k nor s_k for
regression. This module measures both: m_k is the slowest seed's contraction per round, fitted to errors between 1e-2
and 1e-9, and s_k ≥ k is the earliest warm-up from which the bound holds in every seed. The bound therefore shows a
shape; it does not confirm the paper's constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from adapad_ray.results import CellResult
from adapad_ray.training.component_errors import COMPONENT_ERRORS

TARGET = 1e-3
"""Relative error that counts as converged."""
FITTED = (1e-9, 1e-2)
"""Range of errors that contractions are fitted to: below the initial fluctuations, above rounding errors."""
ROUNDING = 1e-12
"""Errors below this are not compared with the bound."""


@dataclass(frozen=True)
class Component:
    """One component of one label and budget, over seeds."""

    label: str
    budget: int | None
    number: int
    """k, counted from 1."""
    errors: pd.DataFrame
    """One row per round (the index, from 1), one column per seed."""
    bounded: bool
    """Whether the paper's bound applies: parallel deflation in synchronous rounds."""

    @cached_property
    def rounds(self) -> pd.Series[float]:
        """First round from which the error stays below `TARGET`, per seed; NaN if there is none."""
        below = self.errors < TARGET
        from_here = below[::-1].cummin()[::-1].astype(bool)
        return from_here.idxmax().where(from_here.any()).astype(float)

    @property
    def final(self) -> float:
        """Error after the last round, of the worst seed."""
        return float(self.errors.iloc[-1].max())

    @cached_property
    def rate(self) -> float | None:
        """m_k, the slowest seed's contraction per round; None if fewer than three errors of a seed are in `FITTED`."""
        low, high = FITTED
        slopes = []
        for _, errors in self.errors.items():
            falling = errors < errors.shift()  # the error of a frozen component is constant
            settled = errors[(errors < high)[::-1].cummin()[::-1].astype(bool) & (errors > low) & falling]
            if len(settled) < 3:
                return None
            slopes.append(np.polyfit(settled.index.to_numpy(dtype=float), np.log(settled.to_numpy()), 1)[0])
        return float(np.exp(max(slopes)))

    @cached_property
    def warm_up(self) -> int | None:
        """s_k, the earliest round ≥ k from which the bound holds in every seed."""
        if self.rate is None or not self.bounded:
            return None
        worst = self.errors.max(axis=1)
        for s in range(self.number, len(worst) + 1):
            later = worst[worst.index >= s]
            if (later <= self._bound(later.index.to_numpy(), s)).where(later > ROUNDING, True).all():
                return s
        return None

    def bound(self) -> pd.Series[float] | None:
        """The bound from round s_k on, as far as it exceeds `ROUNDING`; None if its constants are not known."""
        if self.warm_up is None:
            return None
        rounds = self.errors.index[self.errors.index >= self.warm_up]
        values = pd.Series(self._bound(rounds.to_numpy(), self.warm_up), index=rounds)
        return values[values > ROUNDING]

    def _bound(self, rounds: np.ndarray, s: int) -> np.ndarray:
        assert self.rate is not None
        past = rounds - s
        return np.asarray(6 * (past + 2) * self.rate ** (past + 1.0))


@dataclass(frozen=True)
class LabelConvergence:
    """All components of one label and budget."""

    label: str
    budget: int | None
    cells: tuple[CellResult, ...]
    components: tuple[Component, ...]

    @cached_property
    def rounds(self) -> float:
        """Rounds until every component stays below `TARGET`, mean over seeds; NaN if a seed does not get there."""
        slowest = pd.concat([c.rounds for c in self.components], axis=1).max(axis=1, skipna=False)
        return float(slowest.mean(skipna=False))

    @property
    def total_rounds(self) -> int:
        """Number of rounds of the training."""
        return max(int(c.errors.index[-1]) for c in self.components)

    @property
    def local_steps(self) -> float:
        """Local steps of all lanes together in the whole training, mean over seeds."""
        return float(np.mean([cell.cost.lane_passes for cell in self.cells]))

    def steps_of(self, rounds: float) -> float:
        """Local steps of all lanes together in this many rounds, at the training's mean rate."""
        return self.local_steps * rounds / self.total_rounds


def label_convergences(results: Sequence[CellResult], folder: Path | str) -> list[LabelConvergence]:
    """Loads the component errors of the cells of the curve stage; empty if no cell recorded any."""
    groups: dict[tuple[str, int | None], dict[int, tuple[CellResult, pd.DataFrame]]] = {}
    for result in results:
        path = Path(folder) / "cells" / result.id / COMPONENT_ERRORS
        identity = result.identity
        if identity.stage == "curve" and path.exists():
            group = groups.setdefault((identity.label, identity.budget), {})
            group[identity.seed] = result, pd.read_csv(path)
    return [_label(*key, dict(sorted(group.items()))) for key, group in sorted(groups.items(), key=lambda e: e[0][0])]


def _label(label: str, budget: int | None, seeds: dict[int, tuple[CellResult, pd.DataFrame]]) -> LabelConvergence:
    cells = tuple(cell for cell, _ in seeds.values())
    table = pd.concat({seed: errors for seed, (_, errors) in seeds.items()}, names=["seed"]).reset_index("seed")
    config = cells[0].identity.config
    bounded = cells[0].identity.method == "adapad" and not config["staleness"]
    components = []
    for number in sorted(table["component"].unique().tolist()):
        rows = table[table["component"] == number]
        errors = rows.pivot(index="round", columns="seed", values="error")
        components.append(Component(label, budget, number, errors, bounded))
    return LabelConvergence(label, budget, cells, tuple(components))


def convergence_table(labels: Sequence[LabelConvergence]) -> pd.DataFrame:
    """One row per component, with the columns of `convergence.csv`.

    Rounds and local steps (of all lanes together) are counted until the error stays below 1e-3: means over seeds, NaN
    if a seed does not get there. The final error is the worst seed's. Contraction and warm-up are the bound's measured
    constants.
    """
    rows = [
        {
            "label": one.label,
            "budget": one.budget,
            "component": c.number,
            "rounds_to_1e-3": c.rounds.mean(skipna=False),
            "local_steps_to_1e-3": one.steps_of(float(c.rounds.mean(skipna=False))),
            "final_error": c.final,
            "contraction": c.rate,
            "warm_up": c.warm_up,
            "rounds": one.total_rounds,
            "local_steps": one.local_steps,
            "seeds": len(one.cells),
        }
        for one in labels
        for c in one.components
    ]
    return pd.DataFrame(rows).astype({"warm_up": "Int64", "budget": "Int64"})


def convergence_sentences(labels: Sequence[LabelConvergence]) -> list[str]:
    """Compares the labels in sentences."""
    return [_outcome(one) for one in labels] + list(_equal_work(labels)) + list(_advance_learning(labels))


def _outcome(one: LabelConvergence) -> str:
    worst = max(c.final for c in one.components)
    if np.isnan(one.rounds):
        late = [str(c.number) for c in one.components if c.rounds.isna().any()]
        return (
            f"{one.label}: component{'s' * (len(late) > 1)} {', '.join(late)} of {len(one.components)} did not get "
            f"below {TARGET:g} within {one.total_rounds} rounds in every seed; the largest final error is {worst:.1e}."
        )
    work = f"{one.steps_of(one.rounds):,.0f} of {one.local_steps:,.0f} local steps"
    return (
        f"{one.label}: every component is below {TARGET:g} after {one.rounds:.1f} rounds ({work}); the largest final "
        f"error is {worst:.1e}."
    )


def _equal_work(labels: Sequence[LabelConvergence]) -> Iterator[str]:
    """Compares labels with the same number of local steps (within 5 %) by the rounds that they need."""
    left = [one for one in labels if not np.isnan(one.rounds)]
    while left:
        first = max(left, key=lambda one: one.local_steps)
        group = [one for one in left if one.local_steps >= 0.95 * first.local_steps]
        left = [one for one in left if one not in group]
        if len(group) > 1:
            best, *others = sorted(group, key=lambda one: one.rounds)
            slower = ", ".join(f"{one.label} takes {one.rounds / best.rounds:.1f} times as many" for one in others)
            yield (
                f"With about {first.local_steps:,.0f} local steps in total, {best.label} has every component below "
                f"{TARGET:g} in the fewest rounds ({best.rounds:.1f}); {slower}."
            )


def _advance_learning(labels: Sequence[LabelConvergence]) -> Iterator[str]:
    """Compares pairs of labels that differ only in advance learning."""
    for on, off in permutations(labels, 2):
        configs = [dict(one.cells[0].identity.config) for one in (on, off)]
        switches = [config.pop("advance_learning", None) for config in configs]
        if on.budget != off.budget or switches != [True, False] or configs[0] != configs[1]:
            continue
        ratios = [(c.number, _ratio(c, d)) for c, d in zip(on.components, off.components, strict=True)]
        listed = ", ".join(f"{ratio:.2f} for component {k}" for k, ratio in ratios if ratio is not None)
        yield (
            f"Advance learning ({on.label} against {off.label}): {on.rounds:.1f} rounds instead of {off.rounds:.1f} "
            f"until every component is below {TARGET:g}; at equal rounds the error is {listed or 'not comparable'} "
            "times as large (geometric mean over the seeds and rounds in which both fall). The paper's factor of one "
            "third concerns the constant of its bound; it is not a measurement."
        )


def _ratio(on: Component, off: Component) -> float | None:
    """Geometric mean of the ratio of two components' errors, where both are in `FITTED`; None if they never are."""
    low, high = FITTED
    first, second = (errors.to_numpy() for errors in on.errors.align(off.errors, join="inner"))
    both = (np.minimum(first, second) > low) & (np.maximum(first, second) < high)
    return float(np.exp(np.mean(np.log(first[both] / second[both])))) if both.any() else None
