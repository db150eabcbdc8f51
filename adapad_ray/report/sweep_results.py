"""The finished cells of a sweep, with the analyses that several sections of the report share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from adapad_ray.report.curves import Curves
from adapad_ray.report.differences import LabelDifference, label_differences
from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.recommendation import Recommendation, recommend
from adapad_ray.report.records import load_results
from adapad_ray.report.searches import Search, load_searches
from adapad_ray.results import CellResult

Row = dict[str, Any]
"""Column → value of one row of the curve's table."""


class SweepResults:
    """What a section computes from: records, curves, and analyses that are computed once, when first used.

    Raises:
        BadRequestError: the folder has no finished cell of the curve stage, or its records are damaged.
    """

    def __init__(self, folder: Path | str, inputs: ReportInputs) -> None:
        self.folder = Path(folder)
        self.inputs = inputs
        self.results: list[CellResult] = load_results(self.folder, inputs.labels)
        """The finished cells of every stage, sorted by id; `curves.results` are those of the curve stage alone."""
        self.curves = Curves(self.results, self.folder, draws=inputs.draws)

    @property
    def metric(self) -> str:
        """Name of the metric that decides; larger is better."""
        return self.curves.metric

    @cached_property
    def table(self) -> pd.DataFrame:
        """The curve, one row per deployable model: see `Curves.table`."""
        return self.curves.table()

    @property
    def rows(self) -> list[Row]:
        """The rows of `table` as dictionaries, with None for a missing budget or prefix."""
        return [
            {str(name): None if value is pd.NA else value for name, value in row.items()}
            for row in self.table.to_dict("records")
        ]

    @cached_property
    def recommendation(self) -> Recommendation:
        """The recommended point of the curve."""
        inputs = self.inputs
        return recommend(self.curves, delta=inputs.delta, confidence=inputs.confidence, splits=inputs.splits)

    @cached_property
    def differences(self) -> list[LabelDifference]:
        """All comparisons of two labels."""
        return label_differences(self.curves, margin=self.inputs.delta)

    @cached_property
    def searches(self) -> list[Search]:
        """The searches of a sweep of `mode: search`."""
        return load_searches(self.folder, self.inputs.searched, self.curves)
