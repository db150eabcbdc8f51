"""From the records of finished cells to the accuracy-budget curve."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adapad_ray.errors import BadRequestError
from adapad_ray.files import atomic_path
from adapad_ray.report.records import load_predictions
from adapad_ray.report.statistics import Estimate, estimate, item_weights, pareto_front
from adapad_ray.results import CellResult, Point
from adapad_ray.tasks import find_metric

Array = NDArray[np.float64]
Split = Literal["validation", "test"]
TOLERANCE = 1e-4
"""Largest difference allowed between a recorded metric and the one that its stored predictions give."""


class PointKey(NamedTuple):
    """What one row of the curve stands for: the same deployable model over all seeds."""

    label: str
    budget: int | None
    kind: str
    prefix: int | None


@dataclass(frozen=True)
class SeedScores:
    """A split's metric of one curve point: per seed `[seeds]`, and per draw of items and seed `[draws, seeds]`.

    Draws of all points of a split use the same items, so that any two can be compared pairwise.
    """

    seeds: tuple[int, ...]
    values: Array
    draws: Array
    items: int

    @property
    def estimate(self) -> Estimate:
        """The mean over seeds and items."""
        return estimate(self.values, self.draws, self.items)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, which no metric lets exceed 1."""
        low, high = self.estimate.interval()
        return low, min(high, 1.0)

    def minus(self, other: SeedScores) -> SeedScores | None:
        """The difference, paired by item and by the seeds that both have; None if they share no seed."""
        seeds = tuple(seed for seed in self.seeds if seed in other.seeds)
        if not seeds:
            return None
        a, b = self.at(seeds), other.at(seeds)
        return SeedScores(seeds, a.values - b.values, a.draws - b.draws, self.items)

    def at(self, seeds: tuple[int, ...]) -> SeedScores:
        """These seeds alone, in this order."""
        columns = [self.seeds.index(seed) for seed in seeds]
        return SeedScores(seeds, self.values[columns], self.draws[:, columns], self.items)


class Curves:
    """The curve's points over seeds, with their bootstrap draws of items.

    Each split has a generator of its own: nothing of the test split reaches the validation draws. `predictions` by
    cell and name are read from the cells' folders unless they are passed.
    """

    def __init__(
        self,
        results: Sequence[CellResult],
        folder: Path | str,
        *,
        generator: np.random.Generator | None = None,
        draws: int = 2000,
        predictions: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.results = [result for result in results if result.identity.stage == "curve"]
        if not self.results:
            raise BadRequestError(f"{folder} has no finished cell of the curve stage: run the sweep first")
        metrics = {result.metric for result in self.results}
        if len(metrics) > 1:
            raise BadRequestError(f"the cells of {folder} decide by different metrics: {', '.join(sorted(metrics))}")
        self.metric = metrics.pop()
        self.draws = draws
        generator = generator or np.random.default_rng(0)
        self._generators = dict(zip(("validation", "test"), generator.spawn(2), strict=True))
        self.points = self._group()
        self._predictions = predictions or {r.id: load_predictions(self.folder, r.id) for r in self.results}

    def _group(self) -> dict[PointKey, list[tuple[CellResult, Point]]]:
        """Points by key, each with one (cell, point) per seed in ascending order of seeds."""
        cells: dict[tuple[str, int | None, int], str] = {}
        groups: dict[PointKey, list[tuple[CellResult, Point]]] = defaultdict(list)
        for result in sorted(self.results, key=lambda result: result.identity.seed):
            identity = result.identity
            where = (identity.label, identity.budget, identity.seed)
            if where in cells:
                raise BadRequestError(
                    f"the cells {cells[where]} and {result.id} both hold {identity.label} at budget {identity.budget}, "
                    f"seed {identity.seed}: the sweep's file has changed; name the cells that count"
                )
            cells[where] = result.id
            for point in result.points:
                groups[PointKey(identity.label, identity.budget, point.kind, point.prefix)].append((result, point))
        return dict(sorted(groups.items(), key=lambda entry: _order(entry[0])))

    def labels(self, split: Split) -> NDArray[Any]:
        """The split's labels, which every cell must share."""
        first, *others = self.results
        labels = self._tensor(first, f"{split}/labels")
        for other in others:
            if not np.array_equal(labels, self._tensor(other, f"{split}/labels")):
                raise BadRequestError(
                    f"the cells {first.id} and {other.id} were evaluated on different {split} items: "
                    "they cannot stand on one curve"
                )
        return labels

    def _tensor(self, result: CellResult, name: str) -> NDArray[Any]:
        try:
            return self._predictions[result.id][name]
        except KeyError:
            raise BadRequestError(f"the predictions of cell {result.id} lack {name!r}: compute it again") from None

    @cached_property
    def validation(self) -> dict[PointKey, SeedScores]:
        """Scores of every point on the validation split."""
        return self._scores("validation")

    @cached_property
    def test(self) -> dict[PointKey, SeedScores]:
        """Scores of every point on the test split."""
        return self._scores("test")

    def _scores(self, split: Split) -> dict[PointKey, SeedScores]:
        metric, labels = find_metric(self.metric), self.labels(split)
        members = [(key, cell, point) for key, group in self.points.items() for cell, point in group]
        features = np.stack(
            [metric.features(self._tensor(cell, f"{split}/{point.key}"), labels) for _, cell, point in members],
            axis=1,
        )  # [items, members, f]
        for (_, cell, point), value in zip(members, metric.value(features.mean(axis=0)), strict=True):
            recorded = getattr(point, split).get(self.metric)
            if recorded is None or abs(recorded - value) > TOLERANCE:
                raise BadRequestError(
                    f"cell {cell.id} records {split} {self.metric} {recorded} for {point.key}, but its stored "
                    f"predictions give {value:.6f}: delete that cell's folder and launch the sweep again"
                )
        items, flat = len(labels), features.reshape(len(labels), -1)
        blocks = item_weights(items, self.draws, self._generators[split].spawn(1)[0])
        drawn = np.concatenate([metric.value((w @ flat).reshape(len(w), *features.shape[1:])) for w in blocks])
        scores, start = {}, 0
        for key, group in self.points.items():
            scores[key] = SeedScores(
                seeds=tuple(cell.identity.seed for cell, _ in group),
                values=np.array([getattr(point, split)[self.metric] for _, point in group]),
                draws=drawn[:, start : start + len(group)],
                items=items,
            )
            start += len(group)
        return scores

    def difference(self, first: PointKey, second: PointKey, split: Split) -> tuple[Estimate, tuple[int, ...]] | None:
        """`first` minus `second` with the seeds that both have; None if they share none."""
        paired = getattr(self, split)[first].minus(getattr(self, split)[second])
        return None if paired is None else (paired.estimate, paired.seeds)

    def table(self) -> pd.DataFrame:
        """One row per point; see `curve_table`."""
        rows = pd.DataFrame([self._row(key, group) for key, group in self.points.items()])
        rows["on_front"] = pareto_front(rows["parameters"], rows["test_mean"])
        return rows.astype({"budget": "Int64", "prefix": "Int64"})

    def _row(self, key: PointKey, group: list[tuple[CellResult, Point]]) -> dict[str, object]:
        cells, points = zip(*group, strict=True)
        parameters = [point.parameters for point in points]
        row: dict[str, object] = {
            **key._asdict(),
            "method": cells[0].identity.method,
            "parameters": float(np.mean(parameters)),
            "parameters_low": min(parameters),
            "parameters_high": max(parameters),
            "head_parameters": points[0].head_parameters,
            "n_seeds": len(group),
        }
        for split in ("validation", "test"):
            scores: SeedScores = getattr(self, split)[key]
            low, high = scores.interval
            std = float(np.std(scores.values, ddof=1)) if len(group) > 1 else float("nan")
            mean = float(scores.values.mean())
            row |= {f"{split}_mean": mean, f"{split}_low": low, f"{split}_high": high, f"{split}_std": std}
        return row | {
            "budget_remainder": float(np.mean([cell.budget_remainder for cell in cells])),
            "train_seconds": float(np.mean([cell.cost.train_seconds for cell in cells])),
            "train_flops": float(np.mean([cell.cost.train_flops for cell in cells])),
            "lane_passes": float(np.mean([cell.cost.lane_passes for cell in cells])),
            "peak_memory_bytes": max(cell.cost.peak_memory_bytes for cell in cells),
            "adapter_bytes": float(
                np.mean([_adapter_bytes(self.folder, cell, point) for cell, point in zip(cells, points, strict=True)])
            ),
            "mean_rank": float(
                np.mean(
                    [
                        sum(p.ranks.values()) / max(1, len(c.identity.target_modules))
                        for c, p in zip(cells, points, strict=True)
                    ]
                )
            ),
            "max_rank": max(max(point.ranks.values(), default=0) for point in points),
        }


def curve_table(
    results: Sequence[CellResult],
    folder: Path | str,
    *,
    generator: np.random.Generator | None = None,
    draws: int = 2000,
) -> pd.DataFrame:
    """One row per (label, budget, kind, prefix) of the curve stage, over its seeds.

    `*_mean` and `*_std` are over seeds, `*_low` and `*_high` a 95 % interval over seeds × items (`Estimate`),
    `parameters` the mean deployed adapter parameters (seeds may discover different ranks: `parameters_low`,
    `parameters_high`); seconds, FLOPs and lane passes are means per cell, memory the largest of the cells, and a
    prefix carries those of its cell. `adapter_bytes` is the mean size of the exported folder, task head included; NaN
    where nothing was exported.
    """
    return Curves(results, folder, generator=generator, draws=draws).table()


def write_curve_csv(table: pd.DataFrame, path: Path | str) -> None:
    """Writes the table as CSV, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def _order(key: PointKey) -> tuple[str, int, int, int]:
    """By label, then budget, the final model before its prefixes, large prefixes first."""
    return key.label, key.budget or 0, key.kind != "final", -(key.prefix or 0)


def _adapter_bytes(folder: Path, cell: CellResult, point: Point) -> float:
    """Bytes of the point's exported folder."""
    if point.adapter is None:
        return float("nan")
    exported = folder / "cells" / cell.id / point.adapter
    return float(sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())) or float("nan")
