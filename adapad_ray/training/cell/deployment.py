"""The points of a trained cell: every model that can be deployed, evaluated and exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from adapad_ray.adapters.export import DeployedAdapter, deployed_adapter, provenance, save_peft
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.files import atomic_path, write_text
from adapad_ray.methods.plan import Deployable
from adapad_ray.results import Point
from adapad_ray.tasks import TYPES
from adapad_ray.training.cell.request import CellRequest
from adapad_ray.training.cell.workspace import Workspace
from adapad_ray.training.passes.lane_passes import DivergedError
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.workers import Share, Workers

_Metrics = dict[str, dict[str, float]]
"""Split → name of a metric → value."""


class Deployment:
    """Predicts, scores and exports the deployable models of a trained cell."""

    def __init__(self, request: CellRequest, workspace: Workspace, adapted: TrainableModel) -> None:
        self.request, self.workspace, self.adapted = request, workspace, adapted
        self._settings = TrainingSettings(**request.identity.training)
        self._predictions: dict[str, np.ndarray] = {}
        """`<split>/<point>` → predictions."""
        self._answers: dict[str, tuple[str, ...]] = {}
        """`<split>/<point>` → the answers as texts, for tasks that have such."""

    @property
    def splits(self) -> list[str]:
        """The splits to evaluate: validation always, the test splits in the curve stage only."""
        tests = [name for name in self.workspace.data.splits if name.startswith("test")]
        return ["validation", *tests] if self.request.identity.stage == "curve" else ["validation"]

    def points(self, deployables: Sequence[Deployable], workers: Workers, version: int) -> tuple[Point, ...]:
        """The final model; in the curve stage, then those prefixes that are smaller and not empty.

        The workers of the cell, which all hold the trained model, evaluate some of them each; rank 0 exports them. The
        others return nothing.

        Args:
            version: number of the exchange, one that no other has had.

        Raises:
            DivergedError: an output of the model is not finite.
            AttemptLostError: another worker of the cell is gone.
        """
        if self.request.identity.stage != "curve":
            deployables = deployables[:1]
        sizes = [self.adapted.deployed_parameters(d.lane) for d in deployables]
        chosen = [d for i, d in enumerate(deployables) if i == 0 or 0 < sizes[i] < sizes[0]]
        scores = {i: self._evaluate(d) for i, d in enumerate(chosen) if i % workers.count == workers.rank}
        if workers.count > 1 and len(chosen) > 1:
            predictions = {key: torch.from_numpy(values) for key, values in self._predictions.items()}
            for share in workers.collect(version, Share(predictions, (scores, self._answers))):
                self._predictions |= {key: values.numpy() for key, values in share.tensors.items()}
                scores |= share.meta[0]
                self._answers |= share.meta[1]
        return tuple(self._point(d, *scores[i]) for i, d in enumerate(chosen)) if workers.leads else ()

    def _point(self, deployable: Deployable, metrics: _Metrics, validation_loss: float | None) -> Point:
        self.adapted.use(deployable.lane)
        adapter = deployed_adapter(self.adapted, deployable.lane)
        return Point(
            kind="final" if deployable.prefix is None else "prefix",
            prefix=deployable.prefix,
            parameters=self.adapted.deployed_parameters(deployable.lane),
            head_parameters=self.adapted.head_parameters(),
            ranks=adapter.ranks,
            validation=metrics["validation"],
            validation_loss=validation_loss,
            test=metrics.get("test", {}),
            adapter=self._export(deployable, adapter),
        )

    def _evaluate(self, deployable: Deployable) -> tuple[_Metrics, float | None]:
        """Metrics of `validation` and `test`, and the validation loss.

        Metrics of further tests are added to `test` under prefixed names.
        """
        key = _key(deployable)
        self.adapted.use(deployable.lane)
        data = self.workspace.data
        passes = self.workspace.passes(self.adapted.model, self._settings.evaluation_batch_size)
        try:
            with self.adapted.constant():
                evaluated = TYPES[data.type].evaluate(data, passes, self.splits)
        except FloatingPointError as error:  # the last step broke the model, and no later loss could show it
            steps = self._settings.total_steps(len(data.splits["train"]))
            raise DivergedError(f"lane {deployable.lane.index}, step {steps - 1}: {error}") from error
        metrics: _Metrics = {}
        for split, result in evaluated.items():
            self._predictions[f"{split}/{key}"] = result.predictions
            if result.answers:
                self._answers[f"{split}/{key}"] = result.answers
            if split.startswith("test_"):
                further = split.removeprefix("test_")
                metrics["test"] |= {f"{further}_{name}": value for name, value in result.metrics.items()}
            else:
                metrics[split] = dict(result.metrics)
        return metrics, evaluated["validation"].loss

    def _export(self, deployable: Deployable, adapter: DeployedAdapter) -> str | None:
        """Folder of the exported adapter inside the cell's; None in the tune stage and where there is no PEFT form."""
        if self.request.identity.stage == "tune" or not adapter.factors:
            return None
        key = _key(deployable)
        folder = "adapter" if deployable.prefix is None else key
        about = self._provenance(key, adapter, deployable.lane)
        save_peft(adapter, self.request.folder / folder, base_model=self.request.base_model, provenance=about)
        return folder

    def _provenance(self, key: str, adapter: DeployedAdapter, lane: Lane) -> dict[str, Any]:
        data = self.workspace.data
        return provenance(adapter, self.adapted, lane, self.workspace.backbone) | {
            "cell": self.request.id,
            "point": key,
            "model": self.request.base_model,
            "auto_class": TYPES[data.type].auto_class,
            "labels": list(data.class_names),
            **{name: data.settings[name] for name in ("chat_template",) if name in data.settings},
        }

    def save_predictions(self) -> None:
        """Writes the predictions of every point and the labels as safetensors, and answers beside them as JSON."""
        splits, folder = self.workspace.data.splits, self.request.folder
        labels = {f"{split}/labels": splits[split].labels for split in self.splits}
        with atomic_path(folder / "predictions.safetensors") as scratch:
            save_file(self._predictions | labels, scratch)
        if self._answers:
            write_text(
                folder / "answers.json", json.dumps(self._answers, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
            )


def _key(deployable: Deployable) -> str:
    """Name of a deployable model inside its cell."""
    return "final" if deployable.prefix is None else f"prefix-{deployable.prefix}"
