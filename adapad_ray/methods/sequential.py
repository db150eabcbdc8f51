"""Sequential deflation (2505.22602): rank-1 components one after another, each frozen after its training.

The baseline of AdaPaD: component k fits what its predecessors left, and the errors of those are never corrected.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from pydantic import Field

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import uniform_rank
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import CellContext, Deployable, Plan, RoundReport


class SequentialConfig(MethodConfig):
    """Settings of `sequential`. `more_first` is the paper's schedule; the rest is this project's choice."""

    more_first: float = 0.0
    """α of the paper: of r components, number k trains for a share of the steps ∝ max(1 + α x_k, 1e-9) with
    x_k = 1 - 2 (k - 1)/(r - 1). 0 gives equal shares, above 0 more to the first (the paper's best are 1 to 1.5, at 20
    components), below 0 less. In this project every component gets at least one round."""
    local_steps: int = Field(default=1, ge=1)
    """Steps of one round. The training of a component ends with a round. Nothing is exchanged, so rounds otherwise only
    set the unit of measurement: use AdaPaD's value to compare the two round by round."""


class Sequential(BudgetedMethod[SequentialConfig]):
    """Component k of every module learns against its frozen predecessors, with its own learning-rate schedule.

    Prefixes of the result are deployable too. The rank is uniform: the largest that the budget allows, and at most the
    number of rounds.
    """

    name = "sequential"
    summary = "sequential deflation: rank-1 components one after another, frozen once trained"
    shares_passes = True
    Config = SequentialConfig
    adapted: AdaptedModel

    def __init__(self, config: SequentialConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.local_steps = min(config.local_steps, context.total_steps)

    @cached_property
    def rank(self) -> int:
        """Components of every module."""
        return min(uniform_rank(self.budget, self.context.modules, self.costs), self._rounds)

    def plan(self) -> Plan:
        parameters, ranks = self.rank * sum(self.costs.values()), dict.fromkeys(self.costs, self.rank)
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    @property
    def _rounds(self) -> int:
        return -(-self.context.total_steps // self.local_steps)

    @cached_property
    def _ends(self) -> list[int]:
        """Optimizer steps after which the training of each component ends."""
        rank, rounds = self.rank, self._rounds
        positions = [1 - 2 * k / (rank - 1) if rank > 1 else 0.0 for k in range(rank)]
        reached = list(accumulate(max(1 + self.config.more_first * x, 1e-9) for x in positions))
        spare = rounds - rank  # after one round for each
        ends = [k + round(spare * share / reached[-1]) for k, share in enumerate(reached, start=1)]
        return [min(end * self.local_steps, self.context.total_steps) for end in ends]

    def phase(self, step: int) -> tuple[int, int]:
        k = bisect_right(self._ends, step)
        first = self._ends[k - 1] if k else 0
        return first, self._ends[k] - first

    def build(self, generator: torch.Generator) -> None:
        for module in self.adapted.layers:
            self.adapted.add_block(module, 1, generator)
        self.adapted.add_head(1)

    def lanes(self, step: int) -> Sequence[Lane]:
        return (Lane.deflation(self.adapted.blocks),)

    def whole(self) -> Lane:
        return Lane.deflation(self.adapted.blocks)

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        """Adds the next component, with a copy of its predecessor's head, when one is finished."""
        done = self.adapted.blocks
        if steps_done == self._ends[done - 1] and done < self.rank:
            for module in self.adapted.layers:
                self.adapted.add_block(module, 1, generator)
            self.adapted.add_head(done + 1, source=done)
        return RoundReport()

    def published(self, steps_done: int) -> Sequence[int]:
        return range(1, self.adapted.blocks + 1)

    def deployables(self) -> list[Deployable]:
        count = self.adapted.blocks
        smaller = [Deployable(Lane.prefix(k), prefix=k) for k in range(count - 1, 0, -1)]
        return [Deployable(Lane.prefix(count)), *smaller]
