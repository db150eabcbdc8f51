"""The accuracy-budget curve: a metric against deployed parameters, per label, over seeds.

A *label* is a method variant of the sweep's file, such as `lora/qv`. A *prefix* is a smaller model cut from a trained
one: every module keeps its first k components.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adapad_ray.errors import BadRequestError
from adapad_ray.report.records import load_predictions
from adapad_ray.report.seed_variance import SeedVariance, seed_variance
from adapad_ray.report.statistics import Estimate, estimate, item_weights, pareto_front
from adapad_ray.results import CellResult, Point
from adapad_ray.tasks import find_metric

Array = NDArray[np.float64]
Split = Literal["validation", "test"]
TOLERANCE = 1e-4
"""Largest accepted difference between a recorded metric and its value from the stored predictions."""


class PointKey(NamedTuple):
    """Identifies a point of the curve: one deployable model over all its seeds."""

    label: str
    budget: int | None
    """Requested parameters; None for methods without a budget."""
    kind: str
    """`final` for the trained model, `prefix` for one that was cut from it."""
    prefix: int | None
    """Components per module of a prefix."""


@dataclass(frozen=True)
class SeedScores:
    """The metric of one curve point on one split, per seed and per bootstrap draw of items.

    The draws of all points of a split resample the same items, so that any two points can be compared in pairs.
    """

    seeds: tuple[int, ...]
    values: Array
    """The metric on all items, `[seeds]`."""
    draws: Array
    """The metric on each resample of the items, `[draws, seeds]`."""
    items: int
    """Number of items of the split."""
    prior: SeedVariance | None = None
    """What other scores know about the variance over seeds."""
    right_or_wrong: bool = False
    """Whether items are answered right or wrong (`Metric.right_or_wrong`)."""

    @property
    def estimate(self) -> Estimate:
        """The mean over seeds and items."""
        return estimate(self.values, self.draws, self.items, self.prior, right_or_wrong=self.right_or_wrong)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, clipped at 1, the upper bound of every metric."""
        low, high = self.estimate.interval()
        return low, min(high, 1.0)

    def minus(self, other: SeedScores) -> SeedScores | None:
        """The difference, paired by item and by common seeds; None if there is no common seed.

        Its seeds' variance is its own: see `moderated`.
        """
        seeds = tuple(seed for seed in self.seeds if seed in other.seeds)
        if not seeds:
            return None
        a, b = self.select(seeds), other.select(seeds)
        return replace(a, values=a.values - b.values, draws=a.draws - b.draws)

    def select(self, seeds: tuple[int, ...]) -> SeedScores:
        """The scores of these seeds, in this order."""
        columns = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=seeds, values=self.values[columns], draws=self.draws[:, columns], prior=None)


def moderated(scores: Sequence[SeedScores]) -> list[SeedScores]:
    """The same scores, all with the prior that they give each other of the variance over seeds."""
    several = [score for score in scores if len(score.seeds) > 1]
    variances = [float(np.var(score.values, ddof=1)) for score in several]
    prior = seed_variance(variances, [len(score.seeds) - 1 for score in several])
    return [replace(score, prior=prior) for score in scores]


class Curves:
    """The points of all curves of a sweep, with their scores over seeds and bootstrap draws of items.

    Each split has its own random generator, so the validation draws do not depend on the test split.

    Args:
        results: records of finished cells; those of other stages than the curve are ignored.
        folder: the sweep's folder.
        generator: source of the bootstrap draws; seed 0 by default.
        draws: number of bootstrap draws.
        predictions: stored predictions by cell id and name; read from the cells' folders by default.

    Raises:
        BadRequestError: no cell belongs to the curve stage, cells use different metrics, or two cells have the same
            label, budget and seed.
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
            raise BadRequestError(f"the cells of {folder} use different metrics: {', '.join(sorted(metrics))}")
        self.metric = metrics.pop()
        self.draws = draws
        generator = generator or np.random.default_rng(0)
        self._generators = dict(zip(("validation", "test"), generator.spawn(2), strict=True))
        self.points = self._group()
        self._predictions = predictions or {r.id: load_predictions(self.folder, r.id) for r in self.results}

    def _group(self) -> dict[PointKey, list[tuple[CellResult, Point]]]:
        """Groups the points by key; each group has one (cell, point) per seed, in ascending order of seeds."""
        cells: dict[tuple[str, int | None, int], str] = {}
        groups: dict[PointKey, list[tuple[CellResult, Point]]] = defaultdict(list)
        for result in sorted(self.results, key=lambda result: result.identity.seed):
            identity = result.identity
            condition = (identity.label, identity.budget, identity.seed)
            if condition in cells:
                raise BadRequestError(
                    f"the cells {cells[condition]} and {result.id} both hold {identity.label} at budget "
                    f"{identity.budget}, seed {identity.seed}: the sweep's file has changed; pass the cells to use"
                )
            cells[condition] = result.id
            for point in result.points:
                groups[PointKey(identity.label, identity.budget, point.kind, point.prefix)].append((result, point))
        return dict(sorted(groups.items(), key=lambda entry: _order(entry[0])))

    def parameters(self, key: PointKey) -> float:
        """Deployed adapter parameters of a point, mean over seeds."""
        group = self.points[key]
        return sum(point.parameters for _, point in group) / len(group)

    def targets(self, split: Split) -> NDArray[Any]:
        """The true classes or values of the split's items, which all cells must share."""
        first, *others = self.results
        targets = self._tensor(first, f"{split}/labels")
        for other in others:
            if not np.array_equal(targets, self._tensor(other, f"{split}/labels")):
                raise BadRequestError(
                    f"the cells {first.id} and {other.id} were evaluated on different {split} items and cannot share "
                    "a curve"
                )
        return targets

    def _tensor(self, result: CellResult, name: str) -> NDArray[Any]:
        try:
            return self._predictions[result.id][name]
        except KeyError:
            raise BadRequestError(
                f"the predictions of cell {result.id} lack {name!r}: delete that cell's folder and launch the sweep "
                "again"
            ) from None

    @cached_property
    def validation(self) -> dict[PointKey, SeedScores]:
        """Scores of every point on the validation split."""
        return self._scores("validation")

    @cached_property
    def test(self) -> dict[PointKey, SeedScores]:
        """Scores of every point on the test split."""
        return self._scores("test")

    def _scores(self, split: Split) -> dict[PointKey, SeedScores]:
        metric, targets = find_metric(self.metric), self.targets(split)
        members = [(key, cell, point) for key, group in self.points.items() for cell, point in group]
        features = np.stack(
            [metric.features(self._tensor(cell, f"{split}/{point.key}"), targets) for _, cell, point in members],
            axis=1,
        )  # [items, members, f]
        for (_, cell, point), value in zip(members, metric.value(features.mean(axis=0)), strict=True):
            recorded = getattr(point, split).get(self.metric)
            if recorded is None or abs(recorded - value) > TOLERANCE:
                raise BadRequestError(
                    f"cell {cell.id} records {split} {self.metric} {recorded} for {point.key}, but its stored "
                    f"predictions give {value:.6f}: delete that cell's folder and launch the sweep again"
                )
        items, flat = len(targets), features.reshape(len(targets), -1)
        blocks = item_weights(items, self.draws, self._generators[split].spawn(1)[0])
        drawn = np.concatenate([metric.value((w @ flat).reshape(len(w), *features.shape[1:])) for w in blocks])
        scores, start = {}, 0
        for key, group in self.points.items():
            scores[key] = SeedScores(
                seeds=tuple(cell.identity.seed for cell, _ in group),
                values=np.array([getattr(point, split)[self.metric] for _, point in group]),
                draws=drawn[:, start : start + len(group)],
                items=items,
                right_or_wrong=metric.right_or_wrong,
            )
            start += len(group)
        return dict(zip(scores, moderated(list(scores.values())), strict=True))

    def table(self) -> pd.DataFrame:
        """One row per point, with the columns of `curve.csv`.

        `*_mean` and `*_std` are over seeds; `*_low` and `*_high` are the 95 % interval over seeds × items (`Estimate`).
        `parameters` is the mean number of deployed adapter parameters; seeds may discover different ranks, hence
        `parameters_low` and `parameters_high`. Seconds, FLOPs and lane passes are means per cell; memory is the
        largest of the cells. A prefix has the costs of the cell it was cut from. `adapter_bytes` is the mean size of
        the exported folder with the task head; NaN where nothing was exported.
        """
        rows = pd.DataFrame([self._row(key, group) for key, group in self.points.items()])
        rows["on_front"] = pareto_front(rows["parameters"], rows["test_mean"])
        return rows.astype({"budget": "Int64", "prefix": "Int64"})

    def _row(self, key: PointKey, group: list[tuple[CellResult, Point]]) -> dict[str, object]:
        cells, points = zip(*group, strict=True)
        parameters = [point.parameters for point in points]
        row: dict[str, object] = {
            **key._asdict(),
            "method": cells[0].identity.method,
            "parameters": _mean(parameters),
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
        sizes = [_adapter_bytes(self.folder, cell, point) for cell, point in group]
        ranks = [sum(point.ranks.values()) / max(1, len(cell.identity.target_modules)) for cell, point in group]
        return row | {
            "budget_remainder": _mean(cell.budget_remainder for cell in cells),
            "train_seconds": _mean(cell.cost.train_seconds for cell in cells),
            "train_flops": _mean(cell.cost.train_flops for cell in cells),
            "lane_passes": _mean(cell.cost.lane_passes for cell in cells),
            "peak_memory_bytes": max(cell.cost.peak_memory_bytes for cell in cells),
            "adapter_bytes": _mean(sizes),
            "mean_rank": _mean(ranks),
            "max_rank": max(max(point.ranks.values(), default=0) for point in points),
        }


def best_member(members: Sequence[tuple[CellResult, Point]]) -> tuple[CellResult, Point]:
    """The cell and point with the best validation metric; of equals, that of the smallest seed."""
    return max(members, key=lambda member: (member[1].validation[member[0].metric], -member[0].identity.seed))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _order(key: PointKey) -> tuple[str, int, int, int]:
    """Sort key: label, budget, then the final model before its prefixes, the largest prefix first."""
    return key.label, key.budget or 0, key.kind != "final", -(key.prefix or 0)


def _adapter_bytes(folder: Path, cell: CellResult, point: Point) -> float:
    """Size of the point's exported folder; NaN if nothing was exported."""
    if point.adapter is None:
        return float("nan")
    exported = folder / "cells" / cell.id / point.adapter
    return float(sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())) or float("nan")
