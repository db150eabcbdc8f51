"""Checks the claims of the report on synthetic sweeps whose true curves are known.

    python benchmarks/known_truth.py [--repetitions 1000] [--draws 400] [--only claims|seeds]

An item is answered correctly if a latent value is positive. The value is the sum of the true accuracy (on the probit
scale), the difficulty of the item (shared by all methods), an effect of method and item (shared by budgets and seeds of
the method), an effect of the seed (one part per method and budget, one part shared by all, like the order of the data),
and noise. All effects are normal, so the expected accuracy over seeds and items is exact. Their sizes are measured, see
`RESULTS.md`: a standard deviation of 1 to 2.2 points over seeds; effects of items as on Rotten Tomatoes.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from adapad_ray.report.curves import Curves, PointKey, SeedScores
from adapad_ray.report.differences import LabelDifference, areas, label_differences
from adapad_ray.report.recommendation import recommend
from adapad_ray.report.statistics import aurac
from adapad_ray.results import CellIdentity, CellResult, Cost, Point

BUDGETS = (10_368, 31_104, 93_312, 279_936)
PLATEAU = (0.738, 0.759, 0.765, 0.770)
"""A curve that saturates; its first point misses the margin below by little and must not be recommended."""
MARGIN = 0.03
"""How much worse than the best a recommendation may be, in accuracy."""
NOISE = 0.13
"""Share of the latent variance that is noise: two seeds disagree on 13 % of items."""
APART = {0.005: 0.05, 0.04: 0.13}
"""By share of the latent variance: standard deviation of the difference of two methods' accuracies on one item."""
COMMON_SEED_SD = 0.005
"""Standard deviation of the seed effect that all methods share, in accuracy."""


@dataclass(frozen=True)
class Truth:
    """Expected accuracy of every label at every budget."""

    name: str
    curves: Mapping[str, tuple[float, ...]]
    budgets: tuple[int, ...] = BUDGETS
    seed_sd: Mapping[str, float | tuple[float, ...]] = field(
        default_factory=lambda: {"lora": 0.01, "adapad": 0.02, "para": 0.01}
    )
    """Standard deviation of the seed effect of each label, in accuracy; a tuple has one per budget."""
    of_method: float = 0.04
    """Share of the latent variance that is the effect of method and item; a key of `APART`."""

    def at(self, label: str, budget: int | None) -> float:
        """Expected accuracy."""
        assert budget is not None
        return self.curves[label][self.budgets.index(budget)]

    def area(self, label: str) -> float:
        """Area under the true curve."""
        return float(aurac(self.budgets, self.curves[label], self.budgets[0], self.budgets[-1]))

    def difference(self, found: LabelDifference) -> float:
        """The true value of the difference that `found` estimates."""
        if found.budget is None:
            return self.area(found.first) - self.area(found.second)
        return self.at(found.first, found.budget) - self.at(found.second, found.budget)


HIGHER = tuple(accuracy + 0.01 for accuracy in PLATEAU)
TRUTHS = (
    Truth("no difference", {"lora": PLATEAU, "adapad": PLATEAU, "para": PLATEAU}),
    Truth("1 point", {"lora": PLATEAU, "adapad": HIGHER, "para": PLATEAU}),
    Truth(
        "crossing",
        {
            "lora": PLATEAU,
            "adapad": tuple(a + shift for a, shift in zip(PLATEAU, (0.03, 0.01, -0.01, -0.03), strict=True)),
            "para": PLATEAU,
        },
    ),
    Truth(
        "1 noisy point",
        {"lora": PLATEAU, "adapad": HIGHER, "para": PLATEAU},
        seed_sd={"lora": 0.01, "adapad": (0.01, 0.01, 0.05, 0.01), "para": 0.01},
    ),
)


COST = Cost.model_construct(train_flops=1e12)


@functools.cache
def _identity(label: str, budget: int, seed: int) -> CellIdentity:
    return CellIdentity.model_construct(
        stage="curve", label=label, method=label, budget=budget, seed=seed, target_modules=(), parent=None
    )


class Experiment:
    """A synthetic sweep with fixed items and any number of seeds."""

    def __init__(self, truth: Truth, test: int, validation: int, generator: np.random.Generator) -> None:
        self.truth, self.generator = truth, generator
        self.items = {"validation": validation, "test": test}
        share = {"item": 1 - NOISE - truth.of_method, "method": truth.of_method}
        self.difficulty = {
            split: np.sqrt(share["item"]) * generator.standard_normal(count)
            + np.sqrt(share["method"]) * generator.standard_normal((len(truth.curves), 1, count))
            for split, count in self.items.items()
        }  # [labels, 1, items]
        self.labels = {f"{split}/labels": np.ones(count, dtype=np.int64) for split, count in self.items.items()}
        self.results: list[CellResult] = []
        self.predictions: dict[str, dict[str, NDArray[Any]]] = {}
        accuracy = np.array(list(truth.curves.values()))
        own = np.array(
            [np.broadcast_to(truth.seed_sd[label], len(truth.budgets)) for label in truth.curves]
        ) / norm.pdf(norm.ppf(accuracy))
        common = COMMON_SEED_SD / norm.pdf(norm.ppf(accuracy))
        self.own, self.common = own, common
        # Without this factor, the variance of the seed effects would pull the expected accuracy towards one half.
        self.level = norm.ppf(accuracy) * np.sqrt(1 + own**2 + common**2)  # [labels, budgets]

    def extend(self, seeds: int) -> None:
        """Adds seeds until there are this many."""
        start = len(self.results) // self.level.size
        for seed in range(start, seeds):
            luck = self.own * self.generator.standard_normal(self.level.shape)
            luck = luck + self.common * self.generator.standard_normal()
            right = {}
            for split, count in self.items.items():
                noise = np.sqrt(NOISE) * self.generator.standard_normal((*self.level.shape, count))
                right[split] = (self.level + luck)[..., None] + self.difficulty[split] + noise > 0
            for i, label in enumerate(self.truth.curves):
                for j, budget in enumerate(self.truth.budgets):
                    self._add(label, budget, seed, {split: answers[i, j] for split, answers in right.items()})

    def _add(self, label: str, budget: int, seed: int, right: Mapping[str, NDArray[np.bool_]]) -> None:
        cell = f"{label}-{budget}-{seed}"
        metric = {split: {"accuracy": float(answers.mean())} for split, answers in right.items()}
        point = Point.model_construct(
            kind="final", prefix=None, parameters=budget, head_parameters=770, ranks={}, adapter=None, **metric
        )
        identity = _identity(label, budget, seed)
        self.results.append(
            CellResult.model_construct(id=cell, identity=identity, metric="accuracy", points=(point,), cost=COST)
        )
        logits = {f"{split}/final": np.stack([~answers, answers], axis=1) for split, answers in right.items()}
        self.predictions[cell] = {**self.labels, **logits}

    def curves(self, draws: int) -> Curves:
        """The curves that the report computes from the cells."""
        folder = Path("known-truth")
        return Curves(self.results, folder, generator=self.generator, draws=draws, predictions=self.predictions)


def claims(truth: Truth, items: int, seeds: int, repetitions: int, draws: int = 400) -> dict[str, float]:
    """Rates of correct and false claims of the report, as shares of repetitions, points, areas or differences."""
    counts: Counter[str] = Counter()
    for repetition in range(repetitions):
        experiment = Experiment(truth, items, items // 2, np.random.default_rng([repetition, items, seeds]))
        experiment.extend(seeds)
        curves = experiment.curves(draws)
        false, wrong, found, true = 0, 0, 0, 0
        for difference in label_differences(curves):
            expected = truth.difference(difference)
            exists = abs(expected) > 1e-9
            claimed = difference.winner is not None
            true += exists
            false += claimed and not exists
            right = difference.winner == (difference.first if expected > 0 else difference.second)
            wrong += claimed and exists and not right
            found += claimed and exists and right
            low, high = difference.estimate.interval()
            counts["differences"] += 1
            counts["covered differences"] += low <= expected <= high
            if difference.budget is not None:
                keys = (PointKey(x, difference.budget, "final", None) for x in (difference.first, difference.second))
                a, b = (curves.test[key] for key in keys)
                counts["pairs"] += 1
                counts["by percentiles"] += _percentiles_cover(a, b, expected, experiment.generator)
        counts["clean"] += not false and not wrong
        counts["wrong"] += wrong > 0
        counts["found"] += found
        counts["true"] += true
        chosen = recommend(curves, delta=MARGIN)
        smaller = chosen.name != chosen.best.name
        promised = truth.at(chosen.best.label, chosen.best.budget) - chosen.delta + 1e-9
        counts["promise kept"] += not smaller or truth.at(chosen.label, chosen.budget) > promised
        counts["smaller"] += smaller
        for key, scores in curves.test.items():
            low, high = scores.interval
            counts["points"] += 1
            covered = low <= truth.at(key.label, key.budget) <= high
            counts["covered"] += covered
            counts[f"covered {key}"] += covered
            counts["half widths"] += (high - low) / 2  # type: ignore[assignment]
        for area in areas(curves):
            counts["areas"] += 1
            counts["covered areas"] += area.low <= truth.area(area.label) <= area.high
    return {
        "clean": counts["clean"] / repetitions,
        "wrong": counts["wrong"] / repetitions,
        "found": counts["found"] / counts["true"] if counts["true"] else float("nan"),
        "promise kept": counts["promise kept"] / repetitions,
        "smaller": counts["smaller"] / repetitions,
        "points": counts["covered"] / counts["points"],
        "worst point": min(counts[f"covered {key}"] for key in curves.test) / repetitions,
        "half width": counts["half widths"] / counts["points"],
        "areas": counts["covered areas"] / counts["areas"],
        "differences": counts["covered differences"] / counts["differences"],
        "percentiles": counts["by percentiles"] / counts["pairs"],
    }


def _percentiles_cover(a: SeedScores, b: SeedScores, truth: float, generator: np.random.Generator) -> bool:
    """Whether a percentile bootstrap over seeds × items covers the truth. The report does not use it."""
    draws = a.draws - b.draws
    chosen = generator.integers(draws.shape[1], size=draws.shape)
    low, high = np.quantile(np.take_along_axis(draws, chosen, axis=1).mean(axis=1), [0.025, 0.975])
    return bool(low <= truth <= high)


def planned(truth: Truth, items: int, pilot: int, repetitions: int, draws: int = 400) -> dict[str, float]:
    """Runs pilots of few seeds and extends them to the number of seeds that the report plans for 1 point."""
    numbers, found, wrong = [], 0, 0
    for repetition in range(repetitions):
        experiment = Experiment(truth, items, 1, np.random.default_rng([repetition, items, pilot]))
        experiment.extend(pilot)
        needed = label_differences(experiment.curves(draws))[0].seeds_needed(0.01)
        if needed is None or needed == float("inf"):
            continue
        numbers.append(needed)
        experiment.extend(max(pilot, int(needed)))
        winner = label_differences(experiment.curves(draws))[0].winner
        found += winner == "adapad"
        wrong += winner == "lora"
    told = len(numbers)
    return {
        "told": told / repetitions,
        "median": float(np.median(numbers)) if told else float("nan"),
        "ninety": float(np.quantile(numbers, 0.9)) if told else float("nan"),
        "found": found / told if told else float("nan"),
        "wrong": wrong / told if told else float("nan"),
    }


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", choices=("claims", "seeds"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    for table in (_claims_table, _seeds_table):
        if arguments.only is None or arguments.only in table.__name__:
            for line in table(arguments.repetitions, arguments.draws):
                print(line, flush=True)
            print(f"\n{time.perf_counter() - started:.0f} s\n", flush=True)


def _claims_table(repetitions: int, draws: int) -> Iterator[str]:
    names = ("truth", "items", "seeds", "no false claim", "wrong winner", "true differences found", "promise kept")
    names += (
        "smaller than best",
        "points covered",
        "worst point",
        "half width",
        "areas covered",
        "differences covered",
        "by percentiles",
    )
    yield f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    for truth in TRUTHS:
        for items, seeds in ((400, 3), (800, 5), (1000, 10)):
            values = claims(truth, items, seeds, repetitions, draws).values()
            yield f"| {truth.name} | {items} | {seeds} | {' | '.join(_percent(value) for value in values)} |"


def _seeds_table(repetitions: int, draws: int) -> Iterator[str]:
    names = ("seeds scatter by", "items differ by", "items", "pilot")
    names += ("told a number", "median", "90 %", "then found", "wrong winner")
    yield f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    for scatter, of_method, pilot in ((1, 0.005, 3), (1, 0.005, 5), (1, 0.005, 10), (2, 0.005, 5), (1, 0.04, 5)):
        seed_sd = {"lora": 0.01, "adapad": scatter / 100}
        truth = Truth("1 point", {"lora": PLATEAU[2:], "adapad": HIGHER[2:]}, BUDGETS[2:], seed_sd, of_method)
        row = planned(truth, 1000, pilot, repetitions, draws)
        setting = f"1 and {scatter} points | {APART[of_method]} | 1000 | {pilot}"
        rates = f"{row['median']:.0f} | {row['ninety']:.0f} | {_percent(row['found'])} | {_percent(row['wrong'])}"
        yield f"| {setting} | {_percent(row['told'])} | {rates} |"


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
