"""A trainer whose steps are taken together with those of other lanes and other cells."""

from __future__ import annotations

from typing import Any

from adapad_ray.training.checkpoint import Checkpointer
from adapad_ray.training.packs.shared_passes import SharedPasses
from adapad_ray.training.trainer import Trainer


class PackedTrainer(Trainer):
    """Trains the lanes of a cell as slots of packs. The result is that of `Trainer` up to rounding.

    Args:
        passes: where the lanes train; shared with the cells that train beside this one.
        options: as for `Trainer`.
    """

    def __init__(self, *arguments: Any, passes: SharedPasses, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.passes = passes

    def train_step(self) -> None:
        failures = self.passes.train_step([self])
        if failures:
            raise failures[self]

    def _end_round(self, checkpointer: Checkpointer | None) -> None:
        super()._end_round(checkpointer)
        self.passes.refresh(self)

    def _grow(self) -> None:
        if self.method.grows(self.step):
            self.passes.forget(self)
        super()._grow()
