"""How the errors of single components fall, where the task knows its true components (2605.10741).

A label's rounds end when all lanes publish, or for sequential deflation after as many local steps of its one lane. The
error of component k is the relative distance of its published product from the k-th term of the SVD.

The bound drawn beside it is the paper's, 6 (l - s_k + 2) m_k^(l - s_k + 1) for every round l ≥ s_k. The paper gives
neither m_k nor s_k for regression; ours are measured: m_k is the slowest seed's contraction per round, fitted to its
errors between 1e-2 and 1e-9, and s_k ≥ k the earliest warm-up from which the bound holds in every seed. So it shows the
bound's shape and confirms no constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adapad_ray.files import atomic_path
from adapad_ray.report.figures import GREY, LIGHT, PALETTE, STYLE
from adapad_ray.results import CellResult
from adapad_ray.training.component_errors import COMPONENT_ERRORS

TARGET = 1e-3
"""The relative error that components are timed to."""
FITTED = (1e-9, 1e-2)
"""Errors that a contraction is read off: below the first phase's wandering, above rounding."""
ROUNDING = 1e-12
"""Errors that are compared with no bound."""


@dataclass(frozen=True)
class Component:
    """One component of one label and budget, over the seeds."""

    label: str
    budget: int | None
    number: int
    """From 1."""
    errors: pd.DataFrame
    """One row a round (the index, from 1), one column a seed."""
    bounded: bool
    """Whether the paper's bound speaks of it: parallel deflation in synchronous rounds."""

    @cached_property
    def rounds(self) -> pd.Series[float]:
        """Per seed, the first round from which the error stays below `TARGET`; NaN where there is none."""
        below = self.errors < TARGET
        from_here = below[::-1].cummin()[::-1].astype(bool)
        return from_here.idxmax().where(from_here.any()).astype(float)

    @property
    def final(self) -> float:
        """Error after the last round, in the worst seed."""
        return float(self.errors.iloc[-1].max())

    @cached_property
    def rate(self) -> float | None:
        """m_k, the slowest seed's contraction per round; None where too few errors are in `FITTED`."""
        low, high = FITTED
        slopes = []
        for _, errors in self.errors.items():
            falling = errors < errors.shift()  # a frozen component's error stands still
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
        """The bound from round s_k on, as far as it is above rounding; None where it has no constants."""
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
        """Rounds until every component stays below `TARGET`, mean over seeds; NaN where a seed never gets there."""
        slowest = pd.concat([c.rounds for c in self.components], axis=1).max(axis=1, skipna=False)
        return float(slowest.mean(skipna=False))

    @property
    def total_rounds(self) -> int:
        """Rounds of the training."""
        return max(int(c.errors.index[-1]) for c in self.components)

    @property
    def local_steps(self) -> float:
        """Local steps of all lanes in the whole training, mean over seeds."""
        return float(np.mean([cell.cost.lane_passes for cell in self.cells]))

    def steps_of(self, rounds: float) -> float:
        """Local steps of all lanes in that many rounds, at the training's mean."""
        return self.local_steps * rounds / self.total_rounds


def label_convergences(results: Sequence[CellResult], folder: Path | str) -> list[LabelConvergence]:
    """What the cells of the curve stage say of their components; empty where none of them knows its own."""
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
    bounded = cells[0].identity.method == "adapad" and not config["staleness"] and config["mode"] == "exact"
    components = []
    for number in sorted(table["component"].unique().tolist()):
        rows = table[table["component"] == number]
        errors = rows.pivot(index="round", columns="seed", values="error")
        components.append(Component(label, budget, number, errors, bounded))
    return LabelConvergence(label, budget, cells, tuple(components))


def convergence_table(found: Sequence[LabelConvergence]) -> pd.DataFrame:
    """One row a component, for the report and for CSV.

    Rounds and local steps (of all lanes) count until its error stays below 1e-3: means over seeds, NaN where a seed
    never gets there. The final error is the worst seed's; contraction and warm-up are the bound's measured constants.
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
        for one in found
        for c in one.components
    ]
    return pd.DataFrame(rows).astype({"warm_up": "Int64", "budget": "Int64"})


def write_convergence_csv(table: pd.DataFrame, path: Path | str) -> None:
    """Writes the table as CSV, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def convergence_sentences(found: Sequence[LabelConvergence]) -> list[str]:
    """The labels compared, in words."""
    return [_outcome(one) for one in found] + list(_equal_work(found)) + list(_advance_learning(found))


def _outcome(one: LabelConvergence) -> str:
    worst = max(c.final for c in one.components)
    if np.isnan(one.rounds):
        late = [str(c.number) for c in one.components if c.rounds.isna().any()]
        return (
            f"{one.label}: component{'s' * (len(late) > 1)} {', '.join(late)} of {len(one.components)} did not get "
            f"below {TARGET:g} in {one.total_rounds} rounds in every seed; the largest final error is {worst:.1e}."
        )
    work = f"{one.steps_of(one.rounds):,.0f} of {one.local_steps:,.0f} local steps"
    return (
        f"{one.label}: every component is below {TARGET:g} after {one.rounds:.1f} rounds ({work}); the largest final "
        f"error is {worst:.1e}."
    )


def _equal_work(found: Sequence[LabelConvergence]) -> Iterator[str]:
    """Labels that spend the same number of local steps, within 5 %, by the rounds that they need."""
    left = [one for one in found if not np.isnan(one.rounds)]
    while left:
        first = max(left, key=lambda one: one.local_steps)
        group = [one for one in left if one.local_steps >= 0.95 * first.local_steps]
        left = [one for one in left if one not in group]
        if len(group) > 1:
            best, *others = sorted(group, key=lambda one: one.rounds)
            slower = ", ".join(f"{one.label} {one.rounds / best.rounds:.1f} times as many" for one in others)
            yield (
                f"With about {first.local_steps:,.0f} local steps in all, {best.label} has every component below "
                f"{TARGET:g} in the fewest rounds ({best.rounds:.1f}); {slower}."
            )


def _advance_learning(found: Sequence[LabelConvergence]) -> Iterator[str]:
    """Pairs of labels that differ in advance learning alone."""
    for on, off in permutations(found, 2):
        configs = [dict(one.cells[0].identity.config) for one in (on, off)]
        switches = [config.pop("advance_learning", None) for config in configs]
        if on.budget != off.budget or switches != [True, False] or configs[0] != configs[1]:
            continue
        ratios = [(c.number, _ratio(c, d)) for c, d in zip(on.components, off.components, strict=True)]
        listed = ", ".join(f"{ratio:.2f} for component {k}" for k, ratio in ratios if ratio is not None)
        yield (
            f"Advance learning ({on.label} against {off.label}): {on.rounds:.1f} rounds instead of {off.rounds:.1f} "
            f"until every component is below {TARGET:g}; at equal rounds the error is {listed or 'not comparable'} "
            "times as large (geometric mean over seeds and rounds while both fall). The paper's third is a statement "
            "on the constant of its bound, not a measurement."
        )


def _ratio(on: Component, off: Component) -> float | None:
    """Geometric mean of the quotient of two components' errors where both are in `FITTED`."""
    low, high = FITTED
    first, second = (errors.to_numpy() for errors in on.errors.align(off.errors, join="inner"))
    both = (np.minimum(first, second) > low) & (np.maximum(first, second) < high)
    return float(np.exp(np.mean(np.log(first[both] / second[both])))) if both.any() else None


def convergence_figure(found: Sequence[LabelConvergence]) -> Figure:
    """Error of every component against rounds, one panel a label.

    Thin lines are seeds, thick ones their geometric mean, dashed ones the bound's shape. Panels have axes of rounds of
    their own, because labels that take one lane at a time need several times as many.
    """
    with rc_context(STYLE):
        columns = min(4, len(found))
        rows = -(-len(found) // columns)
        figure = Figure(figsize=(1.2 + 2.9 * columns, 1.0 + 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        several = len({one.budget for one in found}) > 1
        for axes, one in zip(grid.flat, found, strict=False):
            _draw_label(axes, one)
            title = f"{one.label} · {one.budget:,}" if several and one.budget is not None else one.label
            reached = "not below" if np.isnan(one.rounds) else f"after {one.rounds:.0f} rounds below"
            axes.set_title(f"{title}\n{reached} {TARGET:.0e}", loc="left", fontsize=9.5)
        numbers = sorted({c.number for one in found for c in one.components})
        for number, colour in zip(numbers, cycle(PALETTE), strict=False):
            grid[0, 0].plot([], [], color=colour, label=f"component {number}")
        if any(c.bound() is not None for one in found for c in one.components):
            grid[0, 0].plot([], [], color=GREY, linestyle="--", linewidth=1, label="shape of the bound")
        figure.legend(loc="outside upper right", ncols=len(numbers) + 1, frameon=False, fontsize=9)
        figure.supxlabel("rounds (each panel has its own scale)", fontsize=10)
        figure.supylabel("relative error of the published component", fontsize=10)
        figure.suptitle("Components converging", x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def _draw_label(axes: Axes, one: LabelConvergence) -> None:
    thin: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.35}
    for component in one.components:
        colour = PALETTE[(component.number - 1) % len(PALETTE)]
        # Rounding may hit zero, which a log axis cannot show.
        errors = component.errors.clip(lower=np.finfo(float).eps / 10)
        axes.plot(errors.index, errors, color=colour, **thin)
        axes.plot(errors.index, np.exp(np.log(errors).mean(axis=1)), color=colour, linewidth=1.8)
        bound = component.bound()
        if bound is not None:
            axes.plot(bound.index, bound, color=colour, linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.tick_params(labelsize=9)
    axes.axhline(TARGET, color=LIGHT, linewidth=0.8, zorder=0)
    if not np.isnan(one.rounds):
        axes.axvline(one.rounds, color=LIGHT, linewidth=0.8, zorder=0)
