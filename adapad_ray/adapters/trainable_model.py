"""What the trainer, the evaluation and the export need of a model in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapad_ray.adapters.heads import LaneHeads
from adapad_ray.adapters.lane import Lane


@dataclass(frozen=True)
class Structure:
    """What a model in training consists of, without the values."""

    blocks: dict[str, list[int]]
    """Module → the sizes of its active blocks; empty for models without blocks of components."""
    reserves: list[str]
    """Modules with a reserve."""
    heads: list[int]
    """Lanes that have a head."""


class TrainableModel(ABC):
    """A frozen backbone together with everything that is trained on it.

    Subclasses attach their own parameters to `model` and take them off in `detach`; the task heads, one copy for each
    lane, are shared by all. What is trained is counted in blocks, from 1: a lane selects the blocks that act and those
    that learn. `AdaptedModel` has many blocks; a model that trains as a whole has one.
    """

    family_name = "plain"
    """Component family of the exported adapter."""
    fan_in_fan_out = False
    """Whether an adapted layer stores its weight as `[d_in, d_out]`; PEFT wants this in its config."""

    def __init__(self, model: nn.Module, head_modules: Sequence[str]) -> None:
        self.model = model
        self.heads = LaneHeads(model, head_modules)

    def detach(self) -> None:
        """Give the backbone back as it was."""
        self.heads.detach()

    @property
    @abstractmethod
    def blocks(self) -> int:
        """Largest number of active blocks of any module."""

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """Return every trained parameter but those of the heads, under its name in `state`, in a fixed order."""

    @abstractmethod
    def learning(self, lane: Lane) -> list[nn.Parameter]:
        """Return the parameters that learn in `lane` but those of its head, in a fixed order."""

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        """Select what acts in the next forward passes; `generator` draws dropout, and None turns it off."""
        self.heads.use(lane)

    @contextmanager
    def constant(self) -> Iterator[None]:
        """Within, neither the lane nor a value changes, and nothing learns: passes may reuse what they computed."""
        yield

    def parameters(self, lane: Lane) -> list[nn.Parameter]:
        """Return the parameters that learn in `lane`, those of its head last."""
        return self.learning(lane) + self.heads.parameters(lane.index)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return every trained parameter under its name in `state`."""
        return self.trained() | self.heads.named_parameters()

    @abstractmethod
    def publish(self, blocks: Sequence[int] | None = None) -> None:
        """Make the live values of the numbered `blocks`, by default of all, those that act where they do not learn."""

    def add_head(self, index: int, source: int | None = None) -> list[nn.Module]:
        """Give lane `index` a trainable head, copied from lane `source` or else from the initial head."""
        return self.heads.add(index, source)

    def drop_head(self, index: int) -> list[nn.Parameter]:
        """Discard the head of a lane that has ended and return its parameters."""
        return self.heads.drop(index)

    @property
    @abstractmethod
    def ranks(self) -> dict[str, int]:
        """Rank of every adapted module at present."""

    @abstractmethod
    def acting_parameters(self, lane: Lane) -> int:
        """Return the adapter parameters that act in `lane`, in the factored form in which they are computed."""

    @abstractmethod
    def deployed_parameters(self, lane: Lane) -> int:
        """Return the adapter parameters that a deployment of `lane` has at present: what the budget is charged."""

    def active_parameters(self) -> int:
        """Return the adapter parameters that a deployment of all active blocks has at present."""
        return self.deployed_parameters(Lane.prefix(self.blocks))

    def adapter_parameters(self) -> int:
        """Return the trained parameters in memory, reserves included and heads excluded."""
        return sum(p.numel() for p in self.trained().values())

    def head_parameters(self) -> int:
        """Return the parameters of one task head."""
        return self.heads.parameter_count

    @property
    def scales(self) -> dict[str, float]:
        """Factor on every module's update, before that of the lane."""
        return {}

    def factors(self, lane: Lane) -> dict[str, tuple[Tensor, Tensor]]:
        """Return module → `(A [rank, d_in], B [d_out, rank])` deployed for `lane`, the scale folded into B.

        Modules of rank 0 are absent. A model that is not deployed as an adapter has none.
        """
        return {}

    def compact(self, lane: Lane) -> dict[str, Tensor]:
        """Return the update in the family's own form, as `<module>.<name>`; empty where `factors` is that form."""
        return {}

    def magnitudes(self, lane: Lane) -> dict[str, Tensor]:
        """Return module → trained length `[d_out]` of every row of the adapted weight (DoRA only)."""
        return {}

    def structure(self) -> Structure:
        """Return what `rebuild` needs before `load_state`."""
        return Structure(blocks={}, reserves=[], heads=self.heads.lanes())

    def rebuild(self, structure: Structure) -> None:
        """Create the blocks, reserves and heads of `structure`; `load_state` restores their values."""
        self.heads.rebuild(structure.heads)

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, by a stable name."""
        return {name: p.detach() for name, p in self.trained().items()} | self.heads.state()

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], *, partial: bool = False) -> None:
        """Restore what `state` returned, or a part of it, into a model of the same structure.

        Raises:
            ValueError: the names do not fit.
        """
        own = self.state()
        wrong = tensors.keys() - own.keys() if partial else own.keys() ^ tensors.keys()
        if wrong:
            raise ValueError(f"saved state does not fit this model: {sorted(wrong)[:3]} …")
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
