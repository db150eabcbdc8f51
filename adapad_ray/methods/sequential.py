"""Sequential deflation (2505.22602): rank-1 components one after another, each frozen once it is trained.

What AdaPaD is measured against: component k fits what its finished predecessors have left over, and their errors stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from pydantic import Field

from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import uniform_rank
from adapad_ray.methods.base import CellContext, Deployable, Method, MethodConfig, Plan, RoundReport


class SequentialConfig(MethodConfig):
    """Settings of `sequential`. The paper's schedule of the steps is `more_first`; the rest is ours."""

    more_first: float = 0.0
    """α of the paper: of r components, number k trains for a share of the steps ∝ max(1 + α x_k, 1e-9) with
    x_k = 1 - 2 (k - 1)/(r - 1). 0 gives equal shares, above 0 more to the first (the paper's best are 1 to 1.5, at 20
    components), below 0 less. With ours every component gets at least one round."""
    local_steps: int = Field(default=1, ge=1)
    """Steps of one round. A component ends with a round; nothing is exchanged, so this is otherwise a unit of
    measurement, the same as AdaPaD's where the two are to be compared round by round."""


class Sequential(Method[SequentialConfig]):
    """Component k of every module learns against its frozen predecessors, with a learning-rate schedule of its own.

    Prefixes of the result are deployable too. Rank is uniform: the largest that the budget allows, and no more than the
    training has rounds.
    """

    name = "sequential"
    summary = "sequential deflation: rank-1 components one after another, frozen once trained"
    Config = SequentialConfig

    def __init__(self, config: SequentialConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.local_steps = min(config.local_steps, context.total_steps)

    @cached_property
    def rank(self) -> int:
        """Components of every module: as many as the budget allows and the training has rounds for."""
        assert self.context.budget is not None
        costs = {m.name: m.component_cost for m in self.context.modules}
        return min(uniform_rank(self.context.budget, self.context.modules, costs), self._rounds)

    def plan(self) -> Plan:
        rank = self.rank
        parameters = rank * sum(m.component_cost for m in self.context.modules)
        ranks = {m.name: rank for m in self.context.modules}
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    @property
    def _rounds(self) -> int:
        return -(-self.context.total_steps // self.local_steps)

    @cached_property
    def _ends(self) -> list[int]:
        """The number of optimizer steps after which each component is finished."""
        rank, rounds = self.rank, self._rounds
        positions = [1 - 2 * k / (rank - 1) if rank > 1 else 0.0 for k in range(rank)]
        reached = list(accumulate(max(1 + self.config.more_first * x, 1e-9) for x in positions))
        spare = rounds - rank  # beyond the one round that each has
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
        return (Lane.component(self.adapted.blocks),)

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        """The next component is born, with a copy of its predecessor's head, where one is finished."""
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
