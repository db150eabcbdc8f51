"""CP adapters (2606.00428): a fixed number of CP components on every module, trained jointly."""

from __future__ import annotations

from pydantic import Field

from adapad_ray.adapters.cp import Cp, Splits
from adapad_ray.budget import BudgetTooSmallError, remedies, uniform_rank
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import CellContext, Plan
from adapad_ray.wording import counted


class CpConfig(MethodConfig):
    """Settings of `cp`. The paper publishes the form of a component and its grid of c; the rest is this project's
    choice."""

    components: int | None = Field(default=None, ge=1)
    """c, components of every module; by default as many as the budget allows."""
    splits: Splits = Field(default_factory=dict)
    """Module (path or dotted suffix) → sizes of its four modes, outputs first: `{q_proj: [32, 64, 32, 64]}`. By default
    both sides of a module are split into factors as close to each other as possible."""


class CpMethod(BudgetedMethod[CpConfig]):
    """W₀ + s · Σ λ_i (u_i ⊗ v_i)(w_i ⊗ z_i)ᵀ with unit vectors, λ = 0 at the start; exported as exact LoRA."""

    name = "cp"
    summary = "CP adapters: components of a four-way tensor, a tenth to a twentieth of a LoRA rank each"
    shares_passes = True
    Config = CpConfig
    structural = frozenset({"components", "splits"})
    parallel = None

    def __init__(self, config: CpConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.family: Cp = Cp(config.splits)

    def plan(self) -> Plan:
        modules, requested = self.context.modules, self.config.components
        self.family.check(modules)
        self.check_rank("components", requested)
        one_each = sum(self.costs.values())
        needed = (requested or 1) * one_each
        if needed > self.budget:
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below {counted(requested or 1, 'CP component')} on each of "
                f"{counted(len(modules), 'module')} "
                f"({needed:,}): {remedies()}"
            )
        count = requested or uniform_rank(self.budget, modules, self.costs)
        return Plan(
            parameters=count * one_each,
            peak_parameters=count * one_each,
            lanes=1,
            ranks=dict.fromkeys(self.costs, count),
            acting_parameters=count * sum(m.component_cost for m in modules),
        )

    def scales(self) -> dict[str, float]:
        """`lora_alpha · √d_out / mean rank`, with the mean rank (at least 1) of a LoRA of as many parameters. Not
        published; this project's choice."""
        modules = self.context.modules
        mean_rank = self.plan().parameters / sum(m.component_cost for m in modules)
        return {m.name: self.config.lora_alpha * self.family.gain(m) / max(1.0, mean_rank) for m in modules}
