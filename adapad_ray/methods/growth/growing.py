"""Methods that discover ranks: modules start with few components and receive more, each trained before as a reserve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import GrowthSchedule, Ledger
from adapad_ray.methods.base import BudgetedMethod, ConfigT
from adapad_ray.methods.growth.scores import Scores
from adapad_ray.methods.plan import CellContext
from adapad_ray.results import GrowthEvent


class GrowingMethod(BudgetedMethod[ConfigT]):
    """A method that discovers ranks. The subclass decides which modules grow, and defines lanes and heads."""

    adapted: AdaptedModel
    initial_rank: int
    """Components of every module at the start."""
    limits: dict[str, int]
    """Module → largest rank."""
    schedule: GrowthSchedule
    one_at_a_time = True
    """Whether a module gets at most one component in a growth that is not the last."""
    scores: Scores

    def __init__(self, config: ConfigT, context: CellContext) -> None:
        super().__init__(config, context)
        self.ledger = Ledger(self.budget)

    @property
    def initial_parameters(self) -> int:
        """Parameters of the structure at the start."""
        return self.initial_rank * sum(self.costs.values())

    def candidates(self, ranks: Mapping[str, int], remaining: int) -> list[str]:
        """Modules below their limit whose component costs at most `remaining` parameters."""
        return [n for n, cost in self.costs.items() if ranks.get(n, 0) < self.limits[n] and cost <= remaining]

    @property
    def growing(self) -> bool:
        """Whether some module has a reserve and so may still grow."""
        return any(layer.reserve is not None for layer in self.adapted.layers.values())

    def grows(self, steps_done: int) -> bool:
        return self.growing and self.schedule.due(steps_done)

    def add_initial(self, generator: torch.Generator) -> None:
        """Gives every module its first components, one block each, and charges them to the ledger."""
        for module, cost in self.costs.items():
            for _ in range(self.initial_rank):
                self.ledger.charge(cost)
                self.adapted.add_block(module, 1, generator)

    def activate(self, modules: Sequence[str], steps_done: int, generator: torch.Generator) -> list[GrowthEvent]:
        """Gives each of `modules` one component, already charged to the ledger: its reserve, or a new component where
        a module is listed twice."""
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
        """Gives a reserve to every module that may still grow and drops all others; returns the dropped parameters."""
        dropped = []
        candidates = set(self.candidates(self.adapted.ranks, self.ledger.remaining))
        for name, layer in self.adapted.layers.items():
            if name not in candidates and layer.reserve is not None:
                dropped += self.adapted.drop_reserve(name)
            elif name in candidates and layer.reserve is None:
                self.adapted.add_reserve(name, generator)
        return dropped

    def drop_reserves(self) -> list[nn.Parameter]:
        """Drops every reserve; returns their parameters."""
        with_reserve = [name for name, layer in self.adapted.layers.items() if layer.reserve is not None]
        return [p for name in with_reserve for p in self.adapted.drop_reserve(name)]

    def state(self) -> dict[str, Any]:
        return {"spent": self.ledger.spent, "scores": self.scores.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.ledger.spent = int(state["spent"])
        self.scores.load(state["scores"])
