"""AdaPaD (2605.10741): parallel deflation with advance learning and rank discovery under one shared budget.

Lane k trains component k of every module against the published components of its predecessors. At the end of every
round all lanes publish together, so targets improve as predecessors do. Which modules get components is decided early
from the gradients of the frozen weights (`growth_score: gradient`), or, as the paper describes it, while training goes
on: a reserve lane trains one candidate component (a *reserve*) per module, and the modules with the best scores receive
theirs until the budget is spent (`growth_score: reserve`).

The deflation target itself is in two places: `Lane.deflation` says which components act and which one learns, and
`AdaptedLinear` computes the output from them.

Settings that the paper leaves open are fields of `AdapadConfig`; their defaults are this project's choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from adapad_ray.adapters.cp import Cp, Splits
from adapad_ray.adapters.families import PLAIN, gaussian_directions
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.budget import (
    BudgetTooSmallError,
    ComponentRequest,
    GrowthRequest,
    GrowthSchedule,
    check_fits_one,
    decide_growth,
    most_valuable,
    remedies,
)
from adapad_ray.methods.base import MethodConfig
from adapad_ray.methods.growth import GradientScores, GrowingMethod, ReserveScores, depths
from adapad_ray.methods.plan import CellContext, Deployable, Plan, RoundReport
from adapad_ray.wording import counted

PROBE_SIZE = 16
"""Random directions in which the gradient of each frozen weight is measured (a project default)."""
FEWEST_STEPS = 10
"""Steps before growth by gradients, where they are at most a tenth of all: its scores need some batches."""


class AdapadConfig(MethodConfig):
    """Settings of `adapad`. The paper publishes r_max = 4 on GLUE and no other value; all defaults are this project's
    choices."""

    local_steps: int = Field(default=5, ge=1)
    """T, optimizer steps between two exchanges of components. It is small because lanes work against outdated targets
    for a whole round."""
    staleness: int = Field(default=0, ge=0)
    """Rounds by which the components that a lane reads are outdated. 0 is the paper's synchronous round. With n, lanes
    read exactly the components of n rounds ago, so that exchange overlaps with compute."""
    initial_rank: int | None = Field(default=None, ge=0)
    """Components per module at the start. Default: 1, as in the paper, where the budget holds one component per module,
    and 0 below it. 0 needs advance learning."""
    advance_learning: bool = True
    """Whether lane k trains privately in the rounds before it publishes, instead of waiting."""
    r_max: int | None = Field(default=None, ge=1)
    """Largest rank of a module. Default: 1 below one component per module, where the first component of another module
    is worth more than a second one, and each rank adds a pass to every step. Otherwise the mean rank of the budget,
    rounded up, plus one: with less, growth would have no choice; with more, a few modules take most of the budget."""
    growth_score: Literal["gradient", "reserve"] | None = None
    """What decides which modules grow. `gradient`: size and signal-to-noise ratio of the loss gradient of each frozen
    weight, its depth and its size (`GradientScores`). `reserve`: importance and uncertainty of a component in training
    (`ReserveScores`), as in the paper. Default: gradient for plain components, reserve for family cp."""
    growth_start: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps before the first growth: scores need a few steps to mean anything. Default: 0.1;
    for `growth_score: gradient` 0.05, or what ten steps are, if that is more, up to 0.1."""
    growth_end: float | None = Field(default=None, ge=0, le=1)
    """Share of the steps after which the whole budget is assigned; the rest trains the final structure. Default:
    growth_start for `growth_score: gradient`, so that all components learn from then on, and 0.6 for `reserve`."""
    growth_interval: int | None = Field(default=None, ge=1)
    """Steps between two growths, rounded up to whole rounds. The default makes as many growths as fit, up to twice
    r_max and at least 8: a module receives one component at a time, and the last growth assigns whatever is left,
    mostly untrained."""
    growth_threshold: float = Field(default=1.0, ge=0)
    """A module grows when its score exceeds this multiple of the mean score. 1 prefers modules above the average. The
    last growth ignores it, and so does `growth_score: gradient`."""
    score_decay: float = Field(default=0.85, ge=0, lt=1)
    """β of both moving averages of the score, as in AdaLoRA and IncreLoRA."""
    joint_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps, at the end and after all growth, in which the active components train jointly as in plain
    LoRA, with the head of the top lane and on rank 0 alone. Smaller prefixes keep their values from before. 0 is the
    paper's method; the tail is this project's addition, because the authors report losses against joint training on
    their largest tasks."""
    family: Literal["plain", "cp"] = "plain"
    """`cp`: deflation and growth over components of a four-way tensor (see `cp`), each far smaller than a LoRA rank.
    Not published. A budget holds many of them and every lane costs a pass, so choose `r_max` with care."""
    splits: Splits = Field(default_factory=dict)
    """As for `cp`; needs family cp."""

    @model_validator(mode="after")
    def _consistent(self) -> AdapadConfig:
        if self.splits and self.family != "cp":
            raise ValueError("splits needs family cp")
        if self.initial_rank == 0 and not self.advance_learning:
            raise ValueError("initial_rank 0 needs advance_learning: every component starts as a reserve")
        if self.growth_score == "gradient" and self.family != "plain":
            raise ValueError(f"growth_score gradient is for plain components: use reserve with family {self.family}")
        start, end = self.growth_shares(math.inf)
        if end < start:
            raise ValueError(f"growth_end {end} must not be before growth_start {start}")
        if self.joint_fraction + end > 1 + 1e-9:
            raise ValueError(
                f"joint_fraction {self.joint_fraction} and growth_end {end} must not exceed 1 together: "
                "joint training starts after growth"
            )
        if self.r_max is not None and self.r_max < (self.initial_rank or 0):
            raise ValueError(f"r_max {self.r_max} must not be below initial_rank {self.initial_rank}")
        return self

    @property
    def by_gradient(self) -> bool:
        """Whether gradients of the frozen weights decide which modules grow."""
        return (self.growth_score or ("gradient" if self.family == "plain" else "reserve")) == "gradient"

    def growth_shares(self, total_steps: float) -> tuple[float, float]:
        """Shares of the steps at which growth starts and ends: the fields or their defaults."""
        start = self.growth_start
        if start is None:
            start = max(0.05, min(0.1, FEWEST_STEPS / total_steps)) if self.by_gradient else 0.1
        end = self.growth_end
        if end is None:
            end = start if self.by_gradient else max(0.6, start)
        return start, end


class Adapad(GrowingMethod[AdapadConfig]):
    """Parallel deflation; prefixes of the discovered adapter are deployable too."""

    name = "adapad"
    version = 6
    summary = "parallel deflation: rank-1 components learn at once, ranks are discovered under the budget"
    shares_passes = True
    Config = AdapadConfig
    structural = frozenset({"initial_rank", "r_max", "family", "splits"})
    parallel = "components"

    def __init__(self, config: AdapadConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.family = PLAIN if config.family == "plain" else Cp(config.splits)
        self.staleness = config.staleness
        self.local_steps = min(config.local_steps, context.total_steps)
        self.initial_rank = self._initial_rank()
        self.r_max = config.r_max or self._default_r_max()
        self.limits = {m.name: min(self.r_max, m.max_rank) for m in context.modules}
        self.schedule = self._growth_schedule()
        self.joint_start = self._joint_start()
        """Step at which the joint tail starts; the number of all steps where there is none."""
        self.one_at_a_time = not config.by_gradient
        self.scores: ReserveScores | GradientScores = (
            GradientScores(depths(self.costs), skip=self.schedule.start // 2)
            if config.by_gradient
            else ReserveScores(config.score_decay)
        )

    def _initial_rank(self) -> int:
        if self.config.initial_rank is not None:
            return self.config.initial_rank
        return int(self.budget >= sum(self.costs.values()) or not self.config.advance_learning)

    def _default_r_max(self) -> int:
        mean_rank = self.budget / sum(self.costs.values())
        return 1 if mean_rank < 1 else max(self.initial_rank, math.ceil(mean_rank) + 1)

    def _growth_schedule(self) -> GrowthSchedule:
        total, period = self.context.total_steps, self.local_steps
        last = total // period * period  # a growth after the last round would leave the budget unspent
        first, final = self.config.growth_shares(total)
        start = min(last, max(period, round(first * total / period) * period))
        end = min(last, max(start, round(final * total / period) * period))
        interval = self.config.growth_interval or max(1, (end - start) // max(8, 2 * self.r_max))
        return GrowthSchedule(start, end, math.ceil(interval / period) * period)

    def _joint_start(self) -> int:
        total, period = self.context.total_steps, self.local_steps
        if self.config.joint_fraction == 0:
            return total
        latest = (total - 1) // period * period
        return max(self.schedule.end, min(latest, round((1 - self.config.joint_fraction) * total / period) * period))

    def plan(self) -> Plan:
        self.family.check(self.context.modules)
        self.check_rank("initial_rank", self.initial_rank)
        self.check_rank("r_max", self.config.r_max)
        initial, one_each = self.initial_parameters, sum(self.costs.values())
        if initial > self.budget:
            fits_one = self.config.advance_learning and self.budget >= min(self.costs.values())
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below initial_rank {self.initial_rank} on "
                f"{counted(len(self.costs), 'module')} ({initial:,}): "
                f"{remedies('initial_rank: 0' if fits_one else None)}"
            )
        if initial == 0:
            check_fits_one(self.budget, self.costs.values())
        ranks = dict.fromkeys(self.costs, self.initial_rank)
        growing = bool(self.candidates(ranks, self.budget - initial))
        reachable = min(self.budget, sum(self.limits[name] * cost for name, cost in self.costs.items()))
        return Plan(
            parameters=reachable if growing else initial,
            peak_parameters=reachable + (one_each if growing and not self.config.by_gradient else 0),
            lanes=max(self.limits.values()) + 1 if growing else self.initial_rank,
            ranks=None if growing else ranks,
            acting_parameters=reachable * sum(m.component_cost for m in self.context.modules) // one_each,
        )

    def scales(self) -> dict[str, float]:
        return self.budget_scales()

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> TrainableModel:
        attached = super().attach(model, head_modules)
        if self.config.by_gradient:
            assert isinstance(attached, AdaptedModel)
            attached.probe = lambda shape, generator: gaussian_directions(shape, PROBE_SIZE, generator)
        return attached

    # Lanes: deflation, advance learning, self-correction.

    def build(self, generator: torch.Generator) -> None:
        adapted = self.adapted
        self.add_initial(generator)
        adapted.add_head(0)
        for k in range(1, adapted.blocks + 1):
            adapted.add_head(k, source=0)
        self.renew_reserves(generator)
        if self.growing:
            adapted.add_head(RESERVE, source=min(adapted.blocks, 1))
        if adapted.blocks or self._first_head == RESERVE:
            adapted.drop_head(0)

    def lanes(self, step: int) -> Sequence[Lane]:
        if self.in_tail(step):
            return (self._final_lane,)
        count = self.adapted.blocks
        lanes = [Lane.deflation(k) for k in range(1, count + 1)]
        if not self.config.advance_learning:
            lanes = [lane for lane in lanes if lane.index <= self._round(step)]
        if count == 0 and self._first_head == 0:
            lanes = [Lane.prefix(0)]  # trains the head alone until the first component is active
        if self.growing:
            lanes.append(Lane.reserves(count))
        return lanes

    @property
    def _first_head(self) -> int:
        """The lane whose head is deployed while there is no component. Probes do not act, so the reserve lane trains
        the head of the bare backbone; reserves act, and lane 0 trains that head beside them."""
        return RESERVE if self.config.by_gradient and self.growing else 0

    def published(self, steps_done: int) -> Sequence[int]:
        if steps_done > self.joint_start:
            return ()
        count = self.adapted.blocks
        return range(1, (count if self.in_tail(steps_done) else min(count, self._round(steps_done - 1))) + 1)

    def _round(self, step: int) -> int:
        """Number of the round that contains `step`, from 1."""
        return step // self.local_steps + 1

    def in_tail(self, step: int) -> bool:
        return self.joint_start <= step < self.context.total_steps

    # Rank discovery.

    def observe(self, lane: Lane) -> None:
        if lane.reserve:
            self.scores.update(self.adapted)

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        return self._grow(steps_done, generator) if self.grows(steps_done) else RoundReport()

    def _grow(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        adapted, report = self.adapted, RoundReport()
        last, lanes_before, first_head = self.schedule.last(steps_done), adapted.blocks, self._first_head
        released = self.schedule.released(steps_done, self.budget, self.initial_parameters)
        modules = self._chosen(released, last)
        if isinstance(self.scores, GradientScores):
            report.retired += self.drop_reserves()  # probes are no components
        report.grown += self.activate(modules, steps_done, generator)
        for module in set(modules):
            self.scores.forget(module)
        for k in range(lanes_before + 1, adapted.blocks + 1):
            adapted.add_head(k, source=k - 1 or first_head)
        if lanes_before == first_head == 0 and adapted.blocks:
            report.retired += adapted.drop_head(0)
        report.retired += self.drop_reserves() if last else self.renew_reserves(generator)
        if not self.growing:
            report.retired += adapted.drop_head(RESERVE)
        return report

    def _chosen(self, released: int, last: bool) -> list[str]:
        """The modules that get a component now, each as often as it gets one; the ledger is charged."""
        costs, ranks = self.costs, self.adapted.ranks
        if isinstance(self.scores, GradientScores):
            scores = self.scores.of_components(self.adapted)
            return most_valuable(
                [
                    ComponentRequest(module, score / costs[module], costs[module])
                    for module, of_module in scores.items()
                    for score in of_module[: self.limits[module] - ranks[module]]
                ],
                self.ledger,
                released=released,
            )
        requests = [
            GrowthRequest(n, self.scores.value(n) / costs[n], costs[n], self.limits[n] - ranks[n])
            for n, layer in self.adapted.layers.items()
            if layer.reserve is not None
        ]
        threshold = self.config.growth_threshold
        return decide_growth(requests, self.ledger, released=released, threshold=threshold, last=last).modules

    # Prefixes.

    def finish(self) -> None:
        if self.joint_start == self.context.total_steps:
            super().finish()

    @property
    def _final_lane(self) -> Lane:
        """The whole model. After a joint tail it acts through live values; published ones belong to the prefixes."""
        count = self.adapted.blocks
        has_tail = self.joint_start < self.context.total_steps
        head = count or self._first_head
        return Lane.joint(count, head=head) if has_tail else Lane.prefix(count, head=head)

    def whole(self) -> Lane:
        """As published: a component that is too young to be published does not act yet."""
        return self._final_lane

    def deployables(self) -> list[Deployable]:
        smaller = [Deployable(Lane.prefix(k), prefix=k) for k in range(self.adapted.blocks - 1, 0, -1)]
        return [Deployable(self._final_lane), *smaller]
