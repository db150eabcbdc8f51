"""Growth under one budget: modules begin with few components and receive more, each from a reserve trained before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from adapad_ray.budget import GrowthSchedule, Ledger
from adapad_ray.methods.base import CellContext, ConfigT, Method
from adapad_ray.methods.importance import SmoothedScores
from adapad_ray.results import GrowthEvent


class GrowingMethod(Method[ConfigT]):
    """A method that discovers ranks. Its subclass decides who grows, and has the last word on lanes and heads."""

    initial_rank: int
    """Components of every module at the start."""
    limits: dict[str, int]
    """Largest rank of each module."""
    schedule: GrowthSchedule
    scores: SmoothedScores

    def __init__(self, config: ConfigT, context: CellContext) -> None:
        super().__init__(config, context)
        assert context.budget is not None
        self.ledger = Ledger(context.budget)

    @cached_property
    def costs(self) -> dict[str, int]:
        """Parameters of one component on each module."""
        return {m.name: self.family.cost(m) for m in self.context.modules}

    @property
    def initial_parameters(self) -> int:
        """Parameters of the structure that training begins with."""
        return self.initial_rank * sum(self.costs.values())

    def candidates(self, ranks: Mapping[str, int], remaining: int) -> list[str]:
        """Modules below their limit whose component costs at most `remaining` parameters."""
        return [n for n, cost in self.costs.items() if ranks.get(n, 0) < self.limits[n] and cost <= remaining]

    @property
    def growing(self) -> bool:
        """Whether some module has a reserve, and so may still grow."""
        return any(layer.reserve is not None for layer in self.adapted.layers.values())

    def grows(self, steps_done: int) -> bool:
        return self.growing and self.schedule.due(steps_done)

    def add_initial(self, generator: torch.Generator) -> None:
        """Gives every module its first components, one block each, and charges them."""
        for module, cost in self.costs.items():
            for _ in range(self.initial_rank):
                self.ledger.charge(cost)
                self.adapted.add_block(module, 1, generator)

    def activate(self, modules: Sequence[str], steps_done: int, generator: torch.Generator) -> list[GrowthEvent]:
        """Gives each of `modules` one component that the ledger has been charged for: its reserve, or a new one where a
        module stands twice."""
        events = []
        spent = self.ledger.spent - sum(self.costs[module] for module in modules)
        for module in modules:
            if self.adapted.layers[module].reserve is None:
                self.adapted.add_block(module, 1, generator)
            else:
                self.adapted.activate_reserve(module)
            spent += self.costs[module]
            rank = self.adapted.layers[module].rank
            events.append(GrowthEvent(step=steps_done, module=module, rank=rank, spent=spent))
        return events

    def renew_reserves(self, generator: torch.Generator) -> list[nn.Parameter]:
        """A reserve for every module that may still grow, none elsewhere; returns the parameters that went."""
        gone = []
        candidates = set(self.candidates(self.adapted.ranks, self.ledger.remaining))
        for name, layer in self.adapted.layers.items():
            if name not in candidates and layer.reserve is not None:
                gone += self.adapted.drop_reserve(name)
            elif name in candidates and layer.reserve is None:
                self.adapted.add_reserve(name, generator)
        return gone

    def drop_reserves(self) -> list[nn.Parameter]:
        """Discards every reserve; returns their parameters."""
        with_reserve = [name for name, layer in self.adapted.layers.items() if layer.reserve is not None]
        return [p for name in with_reserve for p in self.adapted.drop_reserve(name)]

    def state(self) -> dict[str, Any]:
        return {"spent": self.ledger.spent, "scores": self.scores.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.ledger.spent = int(state["spent"])
        self.scores.load(state["scores"])
