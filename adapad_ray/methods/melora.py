"""MELoRA (2402.17263): n mini LoRAs side by side on every module, each on its own slice of the input and the output.

    ΔW = s · diag(B_1, …, B_n) · diag(A_1, …, A_n)        A_i [r, d_in/n]        B_i [d_out/n, r]

The blocks of a block-diagonal matrix add their ranks: the update has rank n·r and as many parameters, r (d_in + d_out),
as a LoRA of rank r. The exported LoRA factors include the zeros and are exact; `melora.safetensors` leaves them out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from adapad_ray.adapters.families import Block, Family
from adapad_ray.budget import BudgetTooSmallError, ModuleShape, remedies
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import CellContext, Plan
from adapad_ray.wording import counted


class MeloraConfig(MethodConfig):
    """Settings of `melora`. The form is published; deriving r from the budget is this project's choice."""

    minis: int = Field(default=2, ge=1)
    """n, mini LoRAs of every module; it must divide all dimensions. 2 as in the authors' script for GLUE."""
    rank: int | None = Field(default=None, ge=1)
    """r, rank of every mini LoRA; by default the largest that the budget allows."""


class MiniBlock(Block):
    """n mini LoRAs of the same rank, stacked; each is initialised as PEFT initialises a LoRA on its slice."""

    def __init__(self, shape: ModuleShape, size: int, minis: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        self.minis = minis
        reads, writes = shape.in_features // minis, shape.out_features // minis
        self.a = nn.Parameter((torch.rand(size, reads, generator=generator) * 2 - 1) * reads**-0.5)
        self.b = nn.Parameter(torch.zeros(size, writes))

    def vectors(self) -> tuple[Tensor, Tensor]:
        a, b = self.a.chunk(self.minis), self.b.chunk(self.minis)
        return torch.block_diag(*a), torch.block_diag(*b)  # type: ignore[no-untyped-call]

    @property
    def kind(self) -> Hashable:
        return self.minis

    def row_constants(self) -> Tensor:
        """`[n·r, n]`: 1 for the mini LoRA of each row."""
        return torch.eye(self.minis, dtype=self.a.dtype, device=self.a.device).repeat_interleave(
            self.size // self.minis, dim=0
        )

    @staticmethod
    def stacked_vectors(parameters: Mapping[str, Tensor], constants: Tensor | None) -> tuple[Tensor, Tensor]:
        assert constants is not None
        own = constants.unsqueeze(-1)
        a, b = ((own * parameters[name].unsqueeze(-2)).flatten(-2) for name in ("a", "b"))
        return a, b

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """`a` `[n·r, d_in/n]` and `b` `[n·r, d_out/n]`: row i·r + j is component j of mini LoRA i."""
        return {"a": self._slices(a), "b": self._slices(b)}

    def _slices(self, vectors: Tensor) -> Tensor:
        whole = vectors.view(self.minis, self.size // self.minis, self.minis, -1)
        return torch.einsum("irid->ird", whole).flatten(0, 1)


class Mini(Family):
    """Components that read one n-th of the input and write one n-th of the output; a block has as many for each."""

    name = "melora"

    def __init__(self, minis: int) -> None:
        self.minis = minis

    def check(self, modules: Sequence[ModuleShape]) -> None:
        for shape in modules:
            if shape.in_features % self.minis or shape.out_features % self.minis:
                raise BadRequestError(
                    f"minis {self.minis} does not divide {shape.name}, which is {shape.out_features} × "
                    f"{shape.in_features}: choose a common divisor of all dimensions"
                )

    def cost(self, shape: ModuleShape) -> int:
        return shape.component_cost // self.minis

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> MiniBlock:
        return MiniBlock(shape, size, self.minis, generator)


class Melora(BudgetedMethod[MeloraConfig]):
    """Block-diagonal LoRA, trained jointly; B = 0 at the start."""

    name = "melora"
    summary = "MELoRA: n mini LoRAs on slices of every module, n times the rank of a LoRA of this size"
    shares_passes = True
    Config = MeloraConfig
    structural = frozenset({"minis", "rank"})

    def __init__(self, config: MeloraConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.family: Mini = Mini(config.minis)

    def plan(self) -> Plan:
        modules, minis, requested = self.context.modules, self.config.minis, self.config.rank or 1
        self.family.check(modules)
        self.check_rank("minis · rank", minis * requested)
        per_rank = sum(m.component_cost for m in modules)
        if requested * per_rank > self.budget:
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below {counted(minis, 'mini LoRA')} of rank {requested} on each of "
                f"{counted(len(modules), 'module')} ({requested * per_rank:,}): {remedies()}"
            )
        rank = self.config.rank or min(self.budget // per_rank, min(m.max_rank for m in modules) // minis)
        return Plan(
            parameters=rank * per_rank,
            peak_parameters=rank * per_rank,
            lanes=1,
            ranks={m.name: minis * rank for m in modules},
            acting_parameters=minis * rank * per_rank,
        )

    def scales(self) -> dict[str, float]:
        """`lora_alpha / r` as in the authors' code: one mini LoRA, that is r components, writes each output."""
        return {name: scale * self.config.minis for name, scale in super().scales().items()}
