"""What the stages of a sweep have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from adapad_ray.report.inputs import SearchedLabel
from adapad_ray.sweep.launch import Launch
from adapad_ray.sweep.observers import SweepState
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave


class Stage(ABC):
    """A part of a sweep: its cells, and how the missing ones are computed."""

    @abstractmethod
    def waves(self, results: Results) -> Iterator[Wave]:
        """Yields the stage's cells; `results` must hold the results of a wave before the next is taken."""

    @property
    def all_known(self) -> bool:
        """Whether `waves` yields all cells of the stage already."""
        return True

    def run(self, launch: Launch) -> None:
        """Computes the missing cells."""
        for wave in self.waves(launch.state.results):
            missing = launch.start_wave(wave)
            if missing:
                self.compute(launch, missing)

    def compute(self, launch: Launch, missing: Sequence[PlannedCell]) -> None:
        """Computes the missing cells of one wave."""
        launch.compute(missing)

    def finish(self, state: SweepState) -> None:  # noqa: B027 - most stages have nothing to finish
        """Called before the report is written, also if there was nothing to compute."""

    def searched(self) -> list[SearchedLabel]:
        """The searches that the report shows."""
        return []
