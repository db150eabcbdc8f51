"""AdaPaD (2605.10741): parallel deflation with advance learning and rank discovery under one shared budget.

Lane k trains component k of every module against the published estimates of its predecessors; every round all lanes
publish together, so targets improve as predecessors do. While growth lasts, a reserve lane trains one candidate
component per module; the modules whose candidates matter most receive them, until the budget is spent.

What the paper leaves open is a field of `AdapadConfig`; the defaults are this project's choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from adapad_ray.adapters.families import FAMILIES
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError, GrowthRequest, GrowthSchedule, Ledger, decide_growth
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import Deployable, Method, MethodConfig, Plan, RoundReport, Setting
from adapad_ray.methods.importance import ReserveScores
from adapad_ray.results import GrowthEvent


class AdapadConfig(MethodConfig):
    """Settings of `adapad`. The defaults are ours: the paper publishes r_max = 4 on GLUE and none of the others."""

    mode: Literal["exact", "interleaved"] = "exact"
    """`exact`: one forward and backward per lane, every lane sees every example, the direct reading of the paper.
    `interleaved`: every example goes to one lane, so that a step costs what a LoRA step costs."""
    local_steps: int = Field(default=5, ge=1)
    """T, optimizer steps between two exchanges of estimates (always 1 in interleaved mode). Small, because a round is
    how long a lane works against an outdated target."""
    staleness: int = Field(default=0, ge=0)
    """Rounds by which the estimates that a lane reads may lag behind: 0 is the paper's synchronous round; with n every
    lane reads exactly the estimates of n rounds ago, so that exchange overlaps with compute. (Exact mode.)"""
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

    @model_validator(mode="after")
    def _consistent(self) -> AdapadConfig:
        if self.initial_rank == 0 and not self.advance_learning:
            raise ValueError("initial_rank 0 needs advance_learning: there every component begins as a reserve")
        if self.staleness and self.mode == "interleaved":
            raise ValueError("staleness needs mode exact: interleaved lanes act on live values")
        if self.growth_end < self.growth_start:
            raise ValueError(f"growth_end {self.growth_end} must not be before growth_start {self.growth_start}")
        if self.r_max is not None and self.r_max < self.initial_rank:
            raise ValueError(f"r_max {self.r_max} must not be below initial_rank {self.initial_rank}")
        return self


class Adapad(Method[AdapadConfig]):
    """Parallel deflation; prefixes of the discovered adapter are deployable too."""

    name = "adapad"
    summary = "parallel deflation: rank-1 components learn at once, ranks are discovered under the budget"
    Config = AdapadConfig
    structural = frozenset({"initial_rank", "r_max"})

    def __init__(self, config: AdapadConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.mixed = config.mode == "interleaved"
        self.parallel = None if self.mixed else "components"
        self.staleness = config.staleness
        self.local_steps = 1 if self.mixed else min(config.local_steps, setting.total_steps)
        assert setting.budget is not None
        self.ledger = Ledger(setting.budget)
        self.schedule = self._schedule()
        self.scores = ReserveScores(config.score_decay)
        family = FAMILIES["plain"]
        self.costs = {m.name: family.cost(m) for m in setting.modules}
        self.limits = {m.name: min(self.r_max, m.max_rank) for m in setting.modules}

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        assert self.setting.budget is not None
        if self.config.r_max is not None:
            return self.config.r_max
        one_each = sum(m.component_cost for m in self.setting.modules)
        return max(2, self.config.initial_rank, math.ceil(2 * self.setting.budget / one_each))

    def _schedule(self) -> GrowthSchedule:
        total, period = self.setting.total_steps, self.local_steps
        last = total // period * period  # growth that never comes would leave the budget unspent
        start = min(last, max(period, round(self.config.growth_start * total / period) * period))
        end = min(last, max(start, round(self.config.growth_end * total / period) * period))
        interval = self.config.growth_interval or max(1, (end - start) // max(8, 2 * self.r_max))
        return GrowthSchedule(start, end, math.ceil(interval / period) * period)

    def plan(self) -> Plan:
        budget = self.ledger.budget
        for module in self.setting.modules:
            if self.config.initial_rank > module.max_rank:
                raise BadRequestError(
                    f"initial_rank {self.config.initial_rank} is above the dimension {module.max_rank} of {module.name}"
                )
            if self.config.r_max is not None and self.config.r_max > module.max_rank:
                raise BadRequestError(
                    f"r_max {self.config.r_max} is above the dimension {module.max_rank} of {module.name}"
                )
        initial = self.config.initial_rank * sum(self.costs.values())
        if initial > budget:
            raise BudgetTooSmallError(
                f"budget {budget:,} is below initial_rank {self.config.initial_rank} on {len(self.costs)} modules "
                f"({initial:,}): raise it, pass fewer target_modules, or set initial_rank: 0"
            )
        if initial == 0 and budget < min(self.costs.values()):
            raise BudgetTooSmallError(
                f"budget {budget:,} is below the smallest component ({min(self.costs.values()):,})"
            )
        most = sum(self.limits[name] * cost for name, cost in self.costs.items())
        reachable = min(budget, most)
        growing = self._may_grow(dict.fromkeys(self.costs, self.config.initial_rank), budget - initial)
        lanes = max(self.limits.values()) + 1 if growing else self.config.initial_rank
        return Plan(
            parameters=reachable if growing else initial,
            peak_parameters=reachable + (sum(self.costs.values()) if growing else 0),
            lanes=lanes,
            passes=1 if self.mixed else lanes,
            ranks=None if growing else dict.fromkeys(self.costs, self.config.initial_rank),
        )

    def scales(self) -> dict[str, float]:
        return self.budget_scales()

    def _may_grow(self, ranks: Mapping[str, int], remaining: int) -> list[str]:
        return [n for n, cost in self.costs.items() if ranks.get(n, 0) < self.limits[n] and cost <= remaining]

    def build(self, adapted: AdaptedModel, generator: torch.Generator) -> None:
        self.adapted = adapted
        for module, cost in self.costs.items():
            for _ in range(self.config.initial_rank):
                self.ledger.charge(cost)
                adapted.add_block(module, 1, generator)
        adapted.add_head(0)
        for k in range(1, adapted.blocks + 1):
            adapted.add_head(k, source=0)
        if adapted.blocks:
            adapted.drop_head(0)
        self._renew_reserves(generator)
        if self._growing:
            adapted.add_head(RESERVE, source=min(adapted.blocks, 1))

    @property
    def _growing(self) -> bool:
        return any(layer.reserve is not None for layer in self.adapted.layers.values())

    def _round(self, step: int) -> int:
        """Number of the round that contains `step`, from 1."""
        return step // self.local_steps + 1

    def lanes(self, step: int) -> Sequence[Lane]:
        count, current = self.adapted.blocks, self._round(step)
        lanes = [Lane.component(k) for k in range(1, count + 1)]
        if not self.config.advance_learning:
            lanes = [lane for lane in lanes if lane.index <= current]
        if count == 0:
            lanes = [Lane.prefix(0)]
        if self._growing:
            lanes.append(Lane.reserves(count))
        if self.mixed:  # acts on live values, so what is not yet published must not act at all
            lanes = [replace(lane, frozen=min(lane.frozen, current - 1)) for lane in lanes]
        return lanes

    def observe(self, lane: Lane) -> None:
        if lane.reserve:
            self.scores.update(self.adapted)

    def grows(self, steps_done: int) -> bool:
        return self._growing and self.schedule.due(steps_done)

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        return self._grow(steps_done, generator) if self.grows(steps_done) else RoundReport()

    def published(self, steps_done: int) -> Sequence[int]:
        return range(1, min(self.adapted.blocks, self._round(steps_done - 1)) + 1)

    def _grow(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        adapted, report = self.adapted, RoundReport()
        last = self.schedule.last(steps_done)
        before, lanes_before = self.ledger.spent, adapted.blocks
        ranks = adapted.ranks
        requests = [
            GrowthRequest(n, self.scores.value(n) / self.costs[n], self.costs[n], self.limits[n] - ranks[n])
            for n, layer in adapted.layers.items()
            if layer.reserve is not None
        ]
        initial = self.config.initial_rank * sum(self.costs.values())
        released = self.schedule.released(steps_done, self.ledger.budget, initial)
        decision = decide_growth(
            requests, self.ledger, released=released, threshold=self.config.growth_threshold, last=last
        )
        spent = before
        for module in decision.modules:
            if adapted.layers[module].reserve is None:
                adapted.add_block(module, 1, generator)
            else:
                adapted.activate_reserve(module)
                self.scores.forget(module)
            spent += self.costs[module]
            rank = adapted.layers[module].rank
            report.grown.append(GrowthEvent(step=steps_done, module=module, rank=rank, spent=spent))
        for k in range(lanes_before + 1, adapted.blocks + 1):
            adapted.add_head(k, source=k - 1)
        if lanes_before == 0 and adapted.blocks:
            report.retired += adapted.drop_head(0)
        if last:
            report.retired += self._end_growth()
        else:
            report.retired += self._renew_reserves(generator)
            if not self._growing:
                report.retired += adapted.drop_head(RESERVE)
        return report

    def _renew_reserves(self, generator: torch.Generator) -> list[torch.nn.Parameter]:
        """A reserve for every module that may still grow, none elsewhere; returns the parameters that went."""
        adapted, gone = self.adapted, []
        candidates = set(self._may_grow(adapted.ranks, self.ledger.remaining))
        for name, layer in adapted.layers.items():
            if name not in candidates and layer.reserve is not None:
                gone += adapted.drop_reserve(name)
            elif name in candidates and layer.reserve is None:
                adapted.add_reserve(name, generator)
        return gone

    def _end_growth(self) -> list[torch.nn.Parameter]:
        gone = [
            p for name, layer in self.adapted.layers.items() if layer.reserve for p in self.adapted.drop_reserve(name)
        ]
        return gone + self.adapted.drop_head(RESERVE)

    def deployables(self) -> list[Deployable]:
        count = self.adapted.blocks
        smaller = [Deployable(Lane.prefix(k), prefix=k) for k in range(count - 1, 0, -1)]
        return [Deployable(Lane.prefix(count)), *smaller]

    def state(self) -> dict[str, Any]:
        return {"spent": self.ledger.spent, "scores": self.scores.state()}

    def load_state(self, adapted: AdaptedModel, state: Mapping[str, Any]) -> None:
        self.adapted = adapted
        self.ledger.spent = int(state["spent"])
        self.scores.load(state["scores"])
