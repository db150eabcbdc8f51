"""Cells on one frozen backbone whose steps are taken together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from adapad_ray.models import Backbone
from adapad_ray.training.packs import SharedPasses
from adapad_ray.training.passes.lane_passes import DivergedError
from adapad_ray.training.trainer import Trainer


class PackedCells:
    """Trainers, each made by `make(backbone=…, passes=…)` on a twin of `backbone`, and started.

    Args:
        slots: most lanes of a pass; default: one for every trainer.
    """

    def __init__(self, make: Sequence[Callable[..., Trainer]], backbone: Backbone, slots: int | None = None) -> None:
        self.passes = SharedPasses(slots or len(make))
        self.trainers: list[Any] = [make_one(backbone=backbone.twin(), passes=self.passes) for make_one in make]
        for trainer in self.trainers:
            trainer.start()

    def run(self) -> dict[int, Exception]:
        """Trains all to their ends; returns the errors by the number of the trainer."""
        index = {trainer: number for number, trainer in enumerate(self.trainers)}
        steps = {trainer: trainer.steps() for trainer in self.trainers}
        failures: dict[int, Exception] = {}

        def goes_on(trainer: Trainer) -> bool:
            try:
                if next(steps[trainer], "ended") is None:
                    return True
            except DivergedError as error:
                failures[index[trainer]] = error
            self.passes.forget(trainer)
            return False

        alive = [trainer for trainer in self.trainers if goes_on(trainer)]
        while alive:
            failed = self.passes.train_step(alive)
            failures.update({index[trainer]: error for trainer, error in failed.items()})
            alive = [trainer for trainer in alive if trainer not in failed and goes_on(trainer)]
        return failures

    def results(self) -> list[tuple[list[float], dict[str, Tensor]]]:
        """Losses and state of every cell."""
        return [(trainer.record.losses, trainer.adapted.state()) for trainer in self.trainers]
