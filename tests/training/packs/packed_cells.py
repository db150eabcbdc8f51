"""Cells on one frozen backbone whose steps are taken together."""

from adapad_ray.training.packs import SharedPasses
from adapad_ray.training.passes.lane_passes import DivergedError


class PackedCells:
    """Trainers, each made by `make(backbone=…, passes=…)` on a twin of `backbone`."""

    def __init__(self, make, backbone, slots=None):
        self.passes = SharedPasses(slots or len(make))
        self.trainers = [make_one(backbone=backbone.twin(), passes=self.passes) for make_one in make]
        for trainer in self.trainers:
            trainer.start()

    def run(self):
        """Trains all to their ends; returns the errors by the number of the trainer."""
        index = {trainer: number for number, trainer in enumerate(self.trainers)}
        steps, failures = {trainer: trainer.steps() for trainer in self.trainers}, {}

        def advance(trainer):
            try:
                next(steps[trainer])
            except StopIteration:
                self.passes.forget(trainer)
                return False
            except DivergedError as error:
                failures[index[trainer]] = error
                self.passes.forget(trainer)
                return False
            return True

        alive = [trainer for trainer in self.trainers if advance(trainer)]
        while alive:
            failed = self.passes.train_step(alive)
            failures.update({index[trainer]: error for trainer, error in failed.items()})
            alive = [trainer for trainer in alive if trainer not in failed and advance(trainer)]
        return failures

    def results(self):
        """Losses and state of every cell."""
        return [(trainer.record.losses, trainer.adapted.state()) for trainer in self.trainers]
