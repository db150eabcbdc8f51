"""Synthetic sweep folders: records and predictions as finished cells leave them, from a seeded generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adapad_ray.results import CellIdentity, CellResult, Cost, GrowthEvent, Point
from adapad_ray.training.record import RoundStats
from adapad_ray.training.round_log import RoundLog

MODULES = tuple(
    f"bert.encoder.layer.{layer}.{module}"
    for layer in range(6)
    for module in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
)
RANK_ONE = 1152
"""Parameters of one component in the synthetic model."""


def labels(items: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, size=items)


def logits(true: np.ndarray, accuracy: float, difficulty: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Two-class logits that are right with probability `accuracy`; hard items are wrong for everyone first."""
    right = 0.8 * difficulty + 0.2 * generator.random(len(true)) < 0.1 + 0.8 * accuracy
    predicted = np.where(right, true, 1 - true)
    return np.stack([1.0 - predicted, predicted], axis=1).astype(np.float32) + 0.1


class SweepFactory:
    """Writes cells of one synthetic sweep into `folder`."""

    def __init__(self, folder: Path, items: int = 400, metric: str = "accuracy") -> None:
        self.folder, self.items, self.metric = folder, items, metric
        self.true = {"validation": labels(items, 1), "test": labels(items, 2)}
        self.difficulty = {split: np.random.default_rng(i).random(items) for i, split in enumerate(self.true)}

    def cell(
        self,
        label: str,
        budget: int | None,
        seed: int,
        validation: float,
        test: float | None = None,
        *,
        prefixes: dict[int, float] | None = None,
        parameters: int | None = None,
        stage: str = "curve",
        ranks: dict[str, int] | None = None,
        adapter: bool = False,
        training: dict[str, float] | None = None,
        flops: float = 3e12,
        head_parameters: int = 770,
    ) -> CellResult:
        """Writes one cell whose models are right with about these probabilities."""
        setting = "".join(f"-{value}" for value in (training or {}).values())
        cell_id = f"{stage}-{label}-{budget}-{seed}{setting}".replace("/", "_").replace("<", "").replace(">", "")
        folder = self.folder / "cells" / cell_id
        folder.mkdir(parents=True, exist_ok=True)
        deployed = (budget or 0) if parameters is None else parameters
        if ranks is None:
            each, extra = divmod(deployed // RANK_ONE, len(MODULES))
            ranks = {m: each + (i < extra) for i, m in enumerate(MODULES) if each + (i < extra)}
        wanted = {"final": (None, validation, test if test is not None else validation, deployed)}
        for prefix, accuracy in sorted((prefixes or {}).items(), reverse=True):
            wanted[f"prefix-{prefix}"] = (prefix, accuracy, accuracy, RANK_ONE * prefix * len(MODULES))
        tensors = {f"{split}/labels": true for split, true in self.true.items()}
        points = []
        for index, (key, (prefix, on_validation, on_test, count)) in enumerate(wanted.items()):
            scores = {}
            for split, accuracy in (("validation", on_validation), ("test", on_test)):
                generator = np.random.default_rng([seed, budget or 0, index, split == "test", len(label)])
                prediction = logits(self.true[split], accuracy, self.difficulty[split], generator)
                tensors[f"{split}/{key}"] = prediction
                scores[split] = {self.metric: float((prediction.argmax(1) == self.true[split]).mean())}
            points.append(
                Point(
                    kind="final" if prefix is None else "prefix",
                    prefix=prefix,
                    parameters=count,
                    head_parameters=head_parameters,
                    ranks=ranks if prefix is None else {m: min(r, prefix) for m, r in ranks.items()},
                    adapter=("adapter" if prefix is None else key) if adapter else None,
                    **scores,
                )
            )
        if adapter:
            for point in points:
                (folder / str(point.adapter)).mkdir(exist_ok=True)
                (folder / str(point.adapter) / "adapter_config.json").write_text("{}")
        result = CellResult(
            id=cell_id,
            identity=CellIdentity(
                stage=stage,
                label=label,
                method=label.split("/")[0],
                method_version=1,
                config={"growth_threshold": 1.0, "initial_rank": 0},
                training={"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, **(training or {})},
                model="minilm-l6",
                model_digest="0" * 8,
                task="rotten-tomatoes",
                data_digest="1" * 8,
                target_modules=MODULES,
                budget=budget,
                seed=seed,
                dtype="float32",
                threads=1,
            ),
            metric=self.metric,
            points=tuple(points),
            train_loss=tuple(float(1 / (1 + 0.1 * step)) for step in range(100)),
            growth=tuple(
                GrowthEvent(step=10 * i, module=m, rank=1, spent=RANK_ONE * (i + 1))
                for i, m in enumerate(list(ranks)[:5])
                if label.startswith("adapad")
            ),
            cost=Cost(
                start_seconds=0.1,
                train_seconds=20.0 + seed,
                evaluation_seconds=2.0,
                train_flops=flops,
                steps=100,
                lane_passes=100,
                tokens=50_000,
                peak_parameters=deployed + 10,
                peak_memory_bytes=400_000_000,
            ),
            versions={"python": "3.11", "torch": "2.13.0"},
        )
        save_file(tensors, folder / "predictions.safetensors")
        (folder / "result.json").write_text(result.model_dump_json())
        return result

    def rounds(self, cell: CellResult, losses: dict[int, list[float]]) -> None:
        """Writes rounds of ten steps; `losses` are those of every lane."""
        log = RoundLog(self.folder / "cells" / cell.id, rank=0)
        for number, values in enumerate(zip(*losses.values(), strict=True), start=1):
            by_lane = dict(zip(losses, values, strict=True))
            log(RoundStats(number, 10 * number, by_lane, {}, 1152, 0, 100, 1.0, 0.0, 0.0, 0, 0))
        log.close()

    def sweep(self, seeds: int = 3) -> list[CellResult]:
        """Three labels over four budgets with a frozen reference: a curve that saturates."""
        results = []
        for seed in range(seeds):
            results.append(self.cell("head_only", None, seed, 0.71 + 0.004 * seed))
            for index, budget in enumerate((10_368, 41_472, 82_944, 165_888)):
                jitter = 0.01 * np.random.default_rng([seed, index]).standard_normal(3)
                if budget >= 41_472:
                    results.append(self.cell("lora", budget, seed, 0.75 + 0.02 * index + jitter[0], adapter=True))
                results.append(self.cell("lora/qv", budget, seed, 0.74 + 0.015 * index + jitter[1]))
                depth = budget // 41_472
                prefixes = {k: 0.76 + 0.01 * k for k in range(1, depth)}
                accuracy = 0.77 + 0.016 * index + jitter[2]
                results.append(self.cell("adapad", budget, seed, accuracy, prefixes=prefixes))
        return results
