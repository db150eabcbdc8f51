"""CP adapters (2606.00428): a fixed number of CP components on every module, trained jointly."""

from __future__ import annotations

from pydantic import Field

from adapad_ray.adapters.cp import Cp, Splits
from adapad_ray.budget import BudgetTooSmallError, uniform_rank
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import CellContext, Method, MethodConfig, Plan


class CpConfig(MethodConfig):
    """Settings of `cp`. The paper publishes the form of a component and c for its grid; the rest is ours."""

    components: int | None = Field(default=None, ge=1)
    """c, components of every module; by default as many as the budget allows."""
    splits: Splits = Field(default_factory=dict)
    """Module (path or dotted suffix) → sizes of its four modes, outputs first: `{q_proj: [32, 64, 32, 64]}`. By default
    both sides of a module are split as squarely as they can be."""


class CpMethod(Method[CpConfig]):
    """W₀ + s · Σ λ_i (u_i ⊗ v_i)(w_i ⊗ z_i)ᵀ with unit vectors, λ = 0 at the start; exported as exact LoRA."""

    name = "cp"
    summary = "CP adapters: components of a four-way tensor, a tenth to a twentieth of a LoRA rank each"
    Config = CpConfig
    structural = frozenset({"components", "splits"})
    parallel = None

    def __init__(self, config: CpConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.family: Cp = Cp(config.splits)

    def plan(self) -> Plan:
        modules, budget, wanted = self.context.modules, self.context.budget, self.config.components
        assert budget is not None
        self.family.check(modules)
        costs = {m.name: self.family.cost(m) for m in modules}
        narrow = min(modules, key=lambda m: m.max_rank)
        if wanted is not None and wanted > narrow.max_rank:
            raise BadRequestError(f"components {wanted} is above the dimension {narrow.max_rank} of {narrow.name}")
        needed = (wanted or 1) * sum(costs.values())
        if needed > budget:
            raise BudgetTooSmallError(
                f"budget {budget:,} is below {wanted or 1} CP components on each of {len(modules)} modules ({needed:,})"
            )
        count = wanted or uniform_rank(budget, modules, costs)
        parameters = count * sum(costs.values())
        return Plan(
            parameters=parameters,
            peak_parameters=parameters,
            lanes=1,
            ranks=dict.fromkeys(costs, count),
            acting_parameters=count * sum(m.component_cost for m in modules),
        )

    def scales(self) -> dict[str, float]:
        """`lora_alpha · √d_out / mean rank` of a LoRA with as many parameters, at least 1 (ours)."""
        modules = self.context.modules
        mean_rank = self.plan().parameters / sum(m.component_cost for m in modules)
        return {m.name: self.config.lora_alpha * self.family.gain(m) / max(1.0, mean_rank) for m in modules}
