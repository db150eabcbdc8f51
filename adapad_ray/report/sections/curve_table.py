"""The numbers behind the curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from adapad_ray.report.curves import PointKey
from adapad_ray.report.recommendation import Recommendation
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Table, Text, mark, muted, note
from adapad_ray.report.style.formatting import count, metric_name, share
from adapad_ray.report.sweep_results import Row, SweepResults


@dataclass(frozen=True)
class CurveTable(Section):
    """One row per deployable model."""

    heading = "The curve"

    rows: list[Row]
    recommendation: Recommendation
    metric: str

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        return cls(sweep.rows, sweep.recommendation, metric_name(sweep.metric))

    def words(self) -> Iterator[Block]:
        chosen = self.recommendation
        keys = [PointKey(row["label"], row["budget"], row["kind"], row["prefix"]) for row in self.rows]
        columns: dict[str, Callable[[Row], Text | int]] = {
            "method": _model_name,
            "budget": lambda row: count(row["budget"]),
            "deployed\nparameters": _parameters,
            f"test {self.metric}": lambda row: share(row["test_mean"]),
            "95 % interval": lambda row: f"{share(row['test_low'])} – {share(row['test_high'])}",
            "validation": lambda row: share(row["validation_mean"]),
            "std over\nseeds (test)": lambda row: share(row["test_std"]),
            "mean\nrank": lambda row: f"{row['mean_rank']:.2f}",
            "max\nrank": lambda row: row["max_rank"],
            "seeds": lambda row: row["n_seeds"],
            "front": lambda row: mark(row["on_front"]),
        }
        yield Table(
            list(columns),
            [[cell(row) for cell in columns.values()] for row in self.rows],
            highlighted=frozenset(i for i, key in enumerate(keys) if key == chosen.point),
        )
        head = count(self.rows[-1]["head_parameters"])
        prefixes = any(row["kind"] == "prefix" for row in self.rows)
        cut = " A row that is cut to k is the first k components of every module of a trained adapter." * prefixes
        yield note(
            f"The recommended row is highlighted. ● marks the Pareto front of test {self.metric} against deployed "
            f"parameters. The budget excludes the task head ({head} parameters). Nominal ranks of different methods or "
            f"module lists are not comparable; parameter counts are.{cut}"
        )


def _model_name(row: Row) -> Text:
    """The label of a row, with the number of components of a prefix."""
    if row["kind"] != "prefix":
        return str(row["label"])
    return Markup("{} {}").format(row["label"], muted(f"cut to {row['prefix']}"))


def _parameters(row: Row) -> Text:
    low, high = row["parameters_low"], row["parameters_high"]
    if low == high:
        return count(row["parameters"])
    return Markup("{} {}").format(count(row["parameters"]), muted(f"({count(low)}–{count(high)})"))
