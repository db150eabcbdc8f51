"""`load_sweep`: a finished sweep, or the finished part of one, as tables and figures."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from adapad_ray.api.notebook import html
from adapad_ray.report.inputs import FailedCell, Gap
from adapad_ray.report.recommendation import Recommendation
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult
from adapad_ray.storage import WorkingFolder, fetched_folder
from adapad_ray.sweep.export import AdapterChoice, Exported, choice_of, export_adapter
from adapad_ray.sweep.manifest import Manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ["label", "budget", "kind", "prefix", "parameters", "n_seeds", "validation_mean", "test_mean", "test_low"]
_SHOWN += ["test_high", "on_front"]


class LoadedSweep:
    """The finished cells of a sweep's folder. Nothing is written to it."""

    def __init__(self, folder: WorkingFolder, manifest: Manifest) -> None:
        self.folder = folder.path
        """On this machine; a copy where the sweep is in a store."""
        self.location = folder.location
        """As it was given: a path or a URL."""
        self._manifest = manifest
        self._analyses = SweepResults(self.folder, manifest.report_inputs())

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._manifest.title

    @property
    def metric(self) -> str:
        """The metric that decides; larger is better."""
        return self._analyses.metric

    @property
    def results(self) -> list[CellResult]:
        """The records of all finished cells."""
        return list(self._analyses.results)

    @property
    def failed(self) -> Sequence[FailedCell]:
        """The cells that failed when the sweep ran last, with the reasons."""
        return list(self._manifest.failed)

    @property
    def gaps(self) -> Sequence[Gap]:
        """The pairs of method and budget that cannot exist, with the reasons."""
        return list(self._manifest.gaps)

    @property
    def missing(self) -> int:
        """Cells of the sweep that are not finished."""
        return self._manifest.missing(self._analyses.results)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """One row per deployable model, as in `curve.csv`: label, budget, parameters, metrics over seeds, intervals."""
        return self._analyses.table.copy()

    @property
    def recommendation(self) -> Recommendation:
        """The smallest model that is not worse than the best by more than the sweep's margin; `.sentence` says it."""
        return self._analyses.recommendation

    def export(
        self,
        to: str | Path,
        *,
        method: str | None = None,
        budget: int | str | None = None,
        prefix: int | str | None = None,
        seed: int | None = None,
    ) -> Exported:
        """Copies an adapter in the PEFT format to the folder `to`, as `adapad export` does.

        Args:
            method: label in the sweep's file; default: the recommended adapter.
            budget: one of the sweep, as a number or as `10.4k`, `0.5%`, `36 ranks`; `method` needs it.
            prefix: of a smaller model cut from the trained one: components per module, or its parameters.
            seed: default: the one that is best on validation.

        Raises:
            BadRequestError: there is no such adapter, or `to` is not empty.
        """
        if method is None:
            choice = choice_of(self.recommendation)
        else:
            choice = AdapterChoice(method, str(budget or 0), None if prefix is None else str(prefix), seed)
        return export_adapter(self.folder, Path(to), choice)

    def figure(self) -> Figure:
        """The accuracy-budget curve, as in the report."""
        from matplotlib import rc_context

        from adapad_ray.report.sections.curve import Curve, curve_figure
        from adapad_ray.report.style.drawing import STYLE

        with rc_context(STYLE):
            return curve_figure(Curve.compute(self._analyses))

    def __repr__(self) -> str:
        finished = len(self._analyses.curves.results)
        return f"<sweep {self.name}: {finished} finished cells of the curve, {self.missing} missing. {self._advice}>"

    def _repr_html_(self) -> str:
        return html(f"{self.name}: {self._advice}", self.curve[_SHOWN])

    @property
    def _advice(self) -> str:
        return self.recommendation.sentence


def load_sweep(folder: str | Path) -> LoadedSweep:
    """Reads a sweep's folder, or its URL in a store.

    Raises:
        BadRequestError: it holds no sweep, no finished cell, or a damaged one.
    """
    stack = ExitStack()
    try:
        found = stack.enter_context(fetched_folder(str(folder)))
        loaded = LoadedSweep(found, Manifest.load(found.path))
    except BaseException:
        stack.close()
        raise
    weakref.finalize(loaded, stack.close)  # a store's local copy lives as long as the object
    return loaded
