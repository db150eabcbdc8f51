"""AdaPaD (2605.10741): parallel deflation with advance learning and rank discovery under one shared budget.

Lane k trains component k of every module against the published estimates of its predecessors; every round all lanes
publish together, so targets improve as predecessors do. While growth lasts, a reserve lane trains one candidate
component per module; the modules whose candidates matter most receive them, until the budget is spent.

What the paper leaves open is a field of `AdapadConfig`; the defaults are this project's choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator

from adapad_ray.adapters.cp import Cp, Splits
from adapad_ray.adapters.families import PLAIN
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.budget import BudgetTooSmallError, GrowthRequest, GrowthSchedule, decide_growth
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import CellContext, Deployable, MethodConfig, Plan, RoundReport
from adapad_ray.methods.growth import GrowingMethod
from adapad_ray.methods.importance import ReserveScores


class AdapadConfig(MethodConfig):
    """Settings of `adapad`. The defaults are ours: the paper publishes r_max = 4 on GLUE and none of the others."""

    local_steps: int = Field(default=5, ge=1)
    """T, optimizer steps between two exchanges of estimates. Small, because a round is
    how long a lane works against an outdated target."""
    staleness: int = Field(default=0, ge=0)
    """Rounds by which the estimates that a lane reads may lag behind: 0 is the paper's synchronous round; with n every
    lane reads exactly the estimates of n rounds ago, so that exchange overlaps with compute."""
    initial_rank: int = Field(default=1, ge=0)
    """Components per module at the start. The paper starts at 1; 0 makes budgets below one component per module
    reachable, and needs advance learning."""
    advance_learning: bool = True
    """Whether lane k trains privately in the rounds before it publishes, instead of waiting."""
    r_max: int | None = Field(default=None, ge=1)
    """Largest rank of a module; by default twice the budget's mean rank, at least 2: less leaves growth no choice."""
    growth_start: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps before the first growth: scores need a few steps to mean anything."""
    growth_end: float = Field(default=0.6, ge=0, le=1)
    """Share of the steps after which the budget is fully assigned; the rest trains the final structure."""
    growth_interval: int | None = Field(default=None, ge=1)
    """Steps between two growths, rounded up to whole rounds; by default as many growths as the phase has room for,
    up to twice r_max and at least 8: a module gets one component at a time, and what no growth has placed goes, mostly
    untrained, in the last one."""
    growth_threshold: float = Field(default=1.0, ge=0)
    """A module grows when its score exceeds this multiple of the mean score. 1 prefers modules above the average."""
    score_decay: float = Field(default=0.85, ge=0, lt=1)
    """β of both moving averages of the score, as in AdaLoRA and IncreLoRA."""
    joint_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps, at the end and after all growth, in which the active components train together as plain LoRA
    does, with the top lane's head and on rank 0 alone. Smaller prefixes stay as they were before. Ours: the authors
    report losing to joint training on the largest tasks. 0 is their method."""
    family: Literal["plain", "cp"] = "plain"
    """`cp`: deflation and growth over components of a four-way tensor (see `cp`), each far smaller than a LoRA rank. No
    paper has it. A budget holds many of them, and every lane costs a pass: mind `r_max`."""
    splits: Splits = Field(default_factory=dict)
    """As for `cp`; needs family cp."""

    @model_validator(mode="after")
    def _consistent(self) -> AdapadConfig:
        if self.splits and self.family != "cp":
            raise ValueError("splits needs family cp")
        if self.initial_rank == 0 and not self.advance_learning:
            raise ValueError("initial_rank 0 needs advance_learning: there every component begins as a reserve")
        if self.growth_end < self.growth_start:
            raise ValueError(f"growth_end {self.growth_end} must not be before growth_start {self.growth_start}")
        if self.joint_fraction + self.growth_end > 1 + 1e-9:
            raise ValueError(
                f"joint_fraction {self.joint_fraction} and growth_end {self.growth_end} must not exceed 1 together: "
                "joint training begins when growth has ended"
            )
        if self.r_max is not None and self.r_max < self.initial_rank:
            raise ValueError(f"r_max {self.r_max} must not be below initial_rank {self.initial_rank}")
        return self


class Adapad(GrowingMethod[AdapadConfig]):
    """Parallel deflation; prefixes of the discovered adapter are deployable too."""

    name = "adapad"
    summary = "parallel deflation: rank-1 components learn at once, ranks are discovered under the budget"
    Config = AdapadConfig
    structural = frozenset({"initial_rank", "r_max", "family", "splits"})

    def __init__(self, config: AdapadConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.parallel = "components"
        self.staleness = config.staleness
        self.local_steps = min(config.local_steps, context.total_steps)
        self.initial_rank = config.initial_rank
        self.family = PLAIN if config.family == "plain" else Cp(config.splits)
        self.schedule = self._schedule()
        self.joint_start = self._joint_start()
        self.scores: ReserveScores = ReserveScores(config.score_decay)
        self.limits = {m.name: min(self.r_max, m.max_rank) for m in context.modules}

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        assert self.context.budget is not None
        if self.config.r_max is not None:
            return self.config.r_max
        return max(2, self.config.initial_rank, math.ceil(2 * self.context.budget / sum(self.costs.values())))

    def _schedule(self) -> GrowthSchedule:
        total, period = self.context.total_steps, self.local_steps
        last = total // period * period  # growth that never comes would leave the budget unspent
        start = min(last, max(period, round(self.config.growth_start * total / period) * period))
        end = min(last, max(start, round(self.config.growth_end * total / period) * period))
        interval = self.config.growth_interval or max(1, (end - start) // max(8, 2 * self.r_max))
        return GrowthSchedule(start, end, math.ceil(interval / period) * period)

    def _joint_start(self) -> int:
        """Steps before the joint tail, in whole rounds and fewer than all; all of them where there is no tail."""
        total, period = self.context.total_steps, self.local_steps
        if self.config.joint_fraction == 0:
            return total
        latest = (total - 1) // period * period
        return max(self.schedule.end, min(latest, round((1 - self.config.joint_fraction) * total / period) * period))

    def plan(self) -> Plan:
        budget = self.ledger.budget
        self.family.check(self.context.modules)
        for module in self.context.modules:
            if self.config.initial_rank > module.max_rank:
                raise BadRequestError(
                    f"initial_rank {self.config.initial_rank} is above the dimension {module.max_rank} of {module.name}"
                )
            if self.config.r_max is not None and self.config.r_max > module.max_rank:
                raise BadRequestError(
                    f"r_max {self.config.r_max} is above the dimension {module.max_rank} of {module.name}"
                )
        initial = self.initial_parameters
        if initial > budget:
            raise BudgetTooSmallError(
                f"budget {budget:,} is below initial_rank {self.config.initial_rank} on {len(self.costs)} modules "
                f"({initial:,}): raise it, pass fewer target_modules, or set initial_rank: 0"
            )
        if initial == 0 and budget < min(self.costs.values()):
            raise BudgetTooSmallError(
                f"budget {budget:,} is below the smallest component ({min(self.costs.values()):,})"
            )
        one_each = sum(self.costs.values())
        most = sum(self.limits[name] * cost for name, cost in self.costs.items())
        reachable = min(budget, most)
        growing = self.candidates(dict.fromkeys(self.costs, self.initial_rank), budget - initial)
        lanes = max(self.limits.values()) + 1 if growing else self.config.initial_rank
        return Plan(
            parameters=reachable if growing else initial,
            peak_parameters=reachable + (one_each if growing else 0),
            lanes=lanes,
            passes=lanes,
            ranks=None if growing else dict.fromkeys(self.costs, self.config.initial_rank),
            acting_parameters=reachable * sum(m.component_cost for m in self.context.modules) // one_each,
        )

    def scales(self) -> dict[str, float]:
        return self.budget_scales()

    def build(self, generator: torch.Generator) -> None:
        self.add_initial(generator)
        self.adapted.add_head(0)
        for k in range(1, self.adapted.blocks + 1):
            self.adapted.add_head(k, source=0)
        if self.adapted.blocks:
            self.adapted.drop_head(0)
        self.renew_reserves(generator)
        if self.growing:
            self.adapted.add_head(RESERVE, source=min(self.adapted.blocks, 1))

    def _round(self, step: int) -> int:
        """Number of the round that contains `step`, from 1."""
        return step // self.local_steps + 1

    def lanes(self, step: int) -> Sequence[Lane]:
        count, current = self.adapted.blocks, self._round(step)
        if self.in_tail(step):
            return (self._final_lane,)
        lanes = [Lane.component(k) for k in range(1, count + 1)]
        if not self.config.advance_learning:
            lanes = [lane for lane in lanes if lane.index <= current]
        if count == 0:
            lanes = [Lane.prefix(0)]
        if self.growing:
            lanes.append(Lane.reserves(count))
        return lanes

    def observe(self, lane: Lane) -> None:
        if lane.reserve:
            self.scores.update(self.adapted)

    def in_tail(self, step: int) -> bool:
        return self.joint_start <= step < self.context.total_steps

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        return self._grow(steps_done, generator) if self.grows(steps_done) else RoundReport()

    def published(self, steps_done: int) -> Sequence[int]:
        if steps_done > self.joint_start:
            return ()
        count = self.adapted.blocks
        return range(1, (count if self.in_tail(steps_done) else min(count, self._round(steps_done - 1))) + 1)

    def _grow(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        adapted, report = self.adapted, RoundReport()
        last, lanes_before, ranks = self.schedule.last(steps_done), adapted.blocks, adapted.ranks
        requests = [
            GrowthRequest(n, self.scores.value(n) / self.costs[n], self.costs[n], self.limits[n] - ranks[n])
            for n, layer in adapted.layers.items()
            if layer.reserve is not None
        ]
        released = self.schedule.released(steps_done, self.ledger.budget, self.initial_parameters)
        decision = decide_growth(
            requests, self.ledger, released=released, threshold=self.config.growth_threshold, last=last
        )
        report.grown += self.activate(decision.modules, steps_done, generator)
        for module in decision.modules:
            self.scores.forget(module)
        for k in range(lanes_before + 1, adapted.blocks + 1):
            adapted.add_head(k, source=k - 1)
        if lanes_before == 0 and adapted.blocks:
            report.retired += adapted.drop_head(0)
        report.retired += self.drop_reserves() if last else self.renew_reserves(generator)
        if not self.growing:
            report.retired += adapted.drop_head(RESERVE)
        return report

    @property
    def _final_lane(self) -> Lane:
        """The whole model: live where a joint tail trains it, for what is published stays the prefixes'."""
        count = self.adapted.blocks
        has_tail = self.joint_start < self.context.total_steps
        return Lane.joint(count, head=count) if has_tail else Lane.prefix(count)

    def finish(self) -> None:
        if self.joint_start == self.context.total_steps:
            super().finish()

    def deployables(self) -> list[Deployable]:
        smaller = [Deployable(Lane.prefix(k), prefix=k) for k in range(self.adapted.blocks - 1, 0, -1)]
        return [Deployable(self._final_lane), *smaller]
