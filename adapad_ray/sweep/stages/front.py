"""The front of a search, trained again with every seed."""

from __future__ import annotations

from collections.abc import Iterator

from adapad_ray.sweep.planning.cells import Results, Wave
from adapad_ray.sweep.stages.base import Stage
from adapad_ray.sweep.stages.search import Search


class Front(Stage):
    """Trains the configurations on the front of each search with every seed, to be tested."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def waves(self, results: Results) -> Iterator[Wave]:
        """One wave, without searches that are not over: they have no front yet."""
        yield self._search.front_wave()
