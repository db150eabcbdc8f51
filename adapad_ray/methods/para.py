"""PARA (2604.27796): train one LoRA of high rank, then keep the singular values that matter. No data, no retraining.

The LoRA of high rank (the *parent*) is a `lora` cell of its own. A sweep trains it once per seed and settings and cuts
it to every budget. Both phases of the paper are in `adapters.truncation`.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from adapad_ray.adapters.families import PlainBlock
from adapad_ray.adapters.load import LoadedAdapter
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.truncation import Cut, KeepParameters, allocate, spectrum
from adapad_ray.budget import check_fits_one, uniform_rank
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.lora import LoraConfig
from adapad_ray.methods.plan import Parent, Plan


class ParaConfig(MethodConfig):
    """Settings of `para`; `lora_alpha` and `dropout` are the parent's."""

    parent_rank: int = Field(default=16, ge=1)
    """Rank of the parent on every module: 16 in all of the paper's experiments. It limits the rank of a cut and decides
    the cost of training, whatever the budget."""
    cut: Cut = "global"
    """`global` is the paper's method: one threshold over the singular values of all modules. Controls: with `local`
    every module keeps the same share of its own energy (as in PEFT's conversion to LoRA); with `uniform` every module
    keeps the same rank (the paper calls this one local)."""
    per_parameter: bool = False
    """Whether the global cut sorts values by energy per parameter, σ² / (d_in + d_out), instead of by σ. Not published:
    the paper counts values, and this project adds the option for modules of unequal shape."""

    @model_validator(mode="after")
    def _consistent(self) -> ParaConfig:
        if self.per_parameter and self.cut != "global":
            raise ValueError(f"per_parameter needs cut global, not {self.cut}")
        return self


class Para(BudgetedMethod[ParaConfig]):
    """The largest singular values of a trained LoRA that fit the budget, refactored as B' = U√Σ, A' = √Σ Vᵀ."""

    name = "para"
    summary = "post-hoc: one LoRA of high rank, cut to every budget by one threshold over its singular values"
    shares_passes = True
    Config = ParaConfig
    adapted: AdaptedModel
    structural = frozenset({"parent_rank", "cut"})

    def parent(self) -> Parent:
        config = LoraConfig(
            rank=self.config.parent_rank, lora_alpha=self.config.lora_alpha, dropout=self.config.dropout
        )
        return Parent("lora", config, self.config.parent_rank * sum(self.costs.values()))

    def plan(self) -> Plan:
        budget, costs, whole = self.budget, self.costs, self.parent().budget
        self.check_rank("parent_rank", self.config.parent_rank)
        if self.config.cut == "global":
            check_fits_one(budget, costs.values())
        parameters, ranks = min(budget, whole), None
        if self.config.cut != "global":
            rank = min(uniform_rank(budget, self.context.modules, costs), self.config.parent_rank)
            if self.config.cut == "uniform":
                parameters, ranks = rank * sum(costs.values()), dict.fromkeys(costs, rank)
        # The parent is what trains, at its full size.
        return Plan(parameters=parameters, peak_parameters=whole, lanes=1, ranks=ranks, acting_parameters=whole)

    def scales(self) -> dict[str, float]:
        return dict.fromkeys(self.costs, 1.0)  # the parent's scale is folded into its B

    def inherit(self, adapter: LoadedAdapter) -> None:
        self._inherited = adapter

    @torch.no_grad()
    def build(self, generator: torch.Generator) -> None:
        factors = self._inherited.folded()
        spectra = {m.name: spectrum(*factors[m.name]) for m in self.context.modules if m.name in factors}
        keep = KeepParameters(self.budget, self.config.per_parameter)
        for name, rank in allocate(spectra, keep, self.config.cut).items():
            a, b = spectra[name].factors(rank)
            block = self.adapted.add_block(name, rank, generator)
            assert isinstance(block, PlainBlock)
            block.a.copy_(a)
            block.b.copy_(b.T)
        saved = self._inherited.saved
        for path, head in zip(self.adapted.heads, self.adapted.add_head(1), strict=True):
            head.load_state_dict({k.removeprefix(f"{path}."): v for k, v in saved.items() if k.startswith(f"{path}.")})
