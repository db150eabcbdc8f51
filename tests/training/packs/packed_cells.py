"""Cells with one lane each, on one backbone, whose steps are taken together."""

from adapad_ray.adapters.packs import Pack, Slot
from adapad_ray.training.batches import joined
from adapad_ray.training.packs import PackOptimizer


class PackedCells:
    """Trainers, made one by one on the same backbone; those that have ended leave the pack."""

    def __init__(self, make):
        self.trainers, self.running = [], []
        for make_one in make:
            trainer = make_one()
            trainer.start()
            trainer.adapted.detach()
            self.trainers.append(trainer)
        self.losses = [[] for _ in self.trainers]

    def step(self, step):
        running = [t for t in self.trainers if step < t.total_steps]
        if running != self.running:
            self.running = running
            self.pack = Pack([Slot(t.adapted, *t.method.lanes(step)) for t in running])
            self.optimizer = PackOptimizer(self.pack, [t.optimizer for t in running])
        batches = [t.batches.load(t.batches.rows(step)) for t in running]
        whole = joined(batches, pad_token_id=0)
        for t in running:
            t.step = step
            t.optimizer.begin_step(step, t.method.phase(step))
        generators = [t._dropout(slot.lane) for t, slot in zip(running, self.pack.slots, strict=True)]
        with self.pack.passing(len(whole.labels), generators):
            output = self.pack.model(**whole.inputs)
            losses = self.pack.losses(running[0]._loss(output, whole.labels), len(batches[0].labels))
            losses.sum().backward()
        self.optimizer.step(losses.detach())
        for t, loss in zip(running, losses.tolist(), strict=True):
            self.losses[self.trainers.index(t)].append(loss)

    def results(self):
        """Losses and state of every cell."""
        for t in self.trainers:
            t.method.finish()
        return [(losses, t.adapted.state()) for losses, t in zip(self.losses, self.trainers, strict=True)]
