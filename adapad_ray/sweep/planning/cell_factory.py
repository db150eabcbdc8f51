"""Makes the cells of a sweep: the identity of each from its label, budget, seed and hyperparameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from adapad_ray.budget import BudgetUnits
from adapad_ray.frozen_linear.quantized import stored_quantization
from adapad_ray.methods import METHODS, Method
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.sweep.inputs import SweepInputs
from adapad_ray.sweep.planning.cells import Cell, lane_steps
from adapad_ray.sweep.planning.packing import shares_passes
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.training.cell import make_method, parent_identity

NO_POINT: Mapping[str, Any] = MappingProxyType({})
"""The settings of the sweep's file, unchanged."""


class CellFactory:
    """Makes cells of one sweep; the same arguments give the same `Cell`, which is made once.

    Args:
        spec: the sweep's file.
        inputs: the model, with or without weights, and the data.
    """

    def __init__(self, spec: SweepSpec, inputs: SweepInputs) -> None:
        self.spec, self.inputs = spec, inputs
        self.modules = {label: target_modules(inputs.model, spec.modules_of(label)) for label in spec.labels()}
        """Shapes of the target modules, by label."""
        self._shapes = {shape.name: shape for shapes in self.modules.values() for shape in shapes}
        sweep_modules = target_modules(inputs.model, spec.target_modules)
        self.units = BudgetUnits.of(sweep_modules, inputs.backbone_parameters)
        """What the units of the file's budgets are worth."""
        self._cells: dict[tuple[object, ...], Cell] = {}

    @property
    def train_examples(self) -> int:
        """Number of training examples."""
        return len(self.inputs.data.splits["train"])

    def budget(self, value: int | float | str) -> int:
        """Converts a budget of the file, such as `40k` or `144 ranks`, to deployed adapter parameters."""
        return self.units.parse(value)

    def cell(
        self,
        stage: Literal["tune", "search", "curve"],
        label: str,
        budget: int | None,
        seed: int,
        point: Mapping[str, Any] = NO_POINT,
        epochs_factor: float = 1.0,
    ) -> Cell:
        """The cell of a label at a budget, in parameters, with the hyperparameters of `point`.

        Args:
            epochs_factor: multiplies the number of epochs, for labels with `compute_as`.
        """
        key = (stage, label, budget, seed, repr(sorted(point.items())), epochs_factor)
        if key not in self._cells:
            self._cells[key] = self._make(stage, label, budget, seed, point, epochs_factor)
        return self._cells[key]

    def method(self, identity: CellIdentity) -> Method[Any]:
        """The method of a cell, configured for its budget, seed and number of steps."""
        modules = tuple(self._shapes[name] for name in identity.target_modules)
        return make_method(identity, modules, self.train_examples, self.inputs.backbone_parameters)

    def lane_steps(self, cell: Cell) -> int:
        """The most forward and backward passes that the training of a cell takes."""
        method = self.method(cell.identity)
        return lane_steps(method, method.plan())

    def evaluation_passes(self, stage: str) -> float:
        """The forward passes of a cell's evaluation, in forward and backward passes of a training batch."""
        splits = self.inputs.data.splits
        rows = sum(len(split) for name, split in splits.items() if name == "validation" or name.startswith("test"))
        rows = rows if stage == "curve" else len(splits["validation"])
        return rows / self.spec.training.batch_size / 3.0

    def parent(self, cell: Cell) -> Cell | None:
        """The cell whose adapter a post-hoc cell cuts; None for cells that train."""
        if cell.identity.parent is None:
            return None
        return self._parent(cell.identity)

    def _parent(self, identity: CellIdentity) -> Cell | None:
        parent = parent_identity(identity, self.method(identity))
        return None if parent is None else Cell(parent)

    def _make(
        self, stage: Any, label: str, budget: int | None, seed: int, point: Mapping[str, Any], epochs_factor: float
    ) -> Cell:
        spec, method = self.spec, self.spec.method_name(label)
        training = spec.training_settings(label, point)
        if epochs_factor != 1.0:
            training = training.model_copy(update={"epochs": float(f"{training.epochs * epochs_factor:.4g}")})
        identity = CellIdentity(
            stage=stage,
            label=label,
            method=method,
            method_version=METHODS[method].version,
            config=spec.method_settings(label, point),
            training=training.model_dump(mode="json"),
            model=os.path.basename(spec.model.rstrip("/")) or spec.model,
            model_digest=self.inputs.model_digest,
            task=spec.task if isinstance(spec.task, str) else self.inputs.data.name,
            data_digest=self.inputs.data.digest,
            target_modules=tuple(module.name for module in self.modules[label]),
            budget=budget,
            seed=seed,
            dtype=spec.dtype,
            precision=self.inputs.precision,
            quantization=spec.quantization or stored_quantization(self.inputs.model),
            attn_implementation=spec.attn_implementation,
            threads=max(1, int(spec.resources.cpus_per_worker)),
            packed=shares_passes(spec, METHODS[method], training),
        )
        parent = self._parent(identity)
        return Cell(identity if parent is None else identity.model_copy(update={"parent": parent.id}))
