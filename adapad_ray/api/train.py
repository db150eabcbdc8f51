"""`train`: one adapter on the user's own model and data, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapad_ray.accelerator import cpu_threads
from adapad_ray.api.data import read_task
from adapad_ray.api.own_model import borrowed, own_backbone
from adapad_ray.api.request import AnyPrecision, Request, check_arguments, resolve
from adapad_ray.api.trained import TrainedAdapter
from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.quantized import stored_quantization
from adapad_ray.methods import METHODS
from adapad_ray.models import IMAGES, Backbone
from adapad_ray.models.target_modules import ALL_LINEAR, left_out
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.storage import RECORD
from adapad_ray.sweep.planning.cells import Cell
from adapad_ray.tasks import TYPES, RawTask, TaskData, encode
from adapad_ray.training.cell import CellRequest, Workspace, make_method, parent_identity, run_cell
from adapad_ray.training.cell.reading import check_reading
from adapad_ray.training.cpus import usable_cpus
from adapad_ray.training.record import OnProgress
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings
from adapad_ray.validation import validated

SHARED_FROM = 30_000_000
"""Parameters of the smallest model whose products several threads share by default (a project default)."""


def train(
    model: nn.Module | str,
    tokenizer: Any = None,
    dataset: Any = None,
    method: str = "adapad",
    budget: int | float | str | None = None,
    *,
    text: str | None = None,
    label: str | None = None,
    task: str | Mapping[str, Any] | None = None,
    target_modules: str | Sequence[str] = "all-linear",
    head_modules: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    precision: AnyPrecision = "auto",
    threads: int | None = None,
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **training: Any,
) -> TrainedAdapter:
    """Trains one adapter under an exact budget, as a cell of a sweep is trained, without Ray.

    Args:
        model: a model of transformers for the task, on its device, which is given back unchanged; or a packaged name, a
            Hub name or a folder. A bare encoder gets a classifier on the mean of its token states. The head is trained
            from new weights, as in a sweep.
        tokenizer: of a model that is an object.
        dataset: a pandas `DataFrame`, a `datasets.Dataset`, a mapping of `train`, `validation` and `test` to such, or
            the name of a task. Missing splits are carved from the training data.
        method: one of `adapad list methods`.
        budget: adapter parameters, as in a sweep's file: `41472`, `10k`, `0.5%`, `36 ranks`.
        text: the column of texts; default: found.
        label: the column of labels; default: found.
        task: a task type, or further fields of `task` in a sweep's file; default: found.
        target_modules: as in a sweep's file.
        head_modules: layers to train as the head; default: those outside the base model.
        settings: of the method, as under its name in a sweep's file.
        seed: decides the head's first weights, the components', and the order of the data.
        precision: as in a sweep's file.
        threads: of torch on the CPU; default: 1 for models below `SHARED_FROM` parameters, whose threads would mostly
            wait for each other, else as many as torch uses now and this process may use.
        folder: where the result is kept: the same request again returns it, or continues from its checkpoint. Default:
            a temporary folder, deleted with the returned object.
        on_progress: called with `step`, `steps` and `loss`, which is None before the first step.
        **training: as under `training` in a sweep's file: `epochs`, `batch_size`, `learning_rate`, `max_length`, …

    Raises:
        BadRequestError: the request cannot be met; nothing was trained.
        DivergedError: training produced a value that is not finite.
    """
    chosen = validated(TrainingSettings, training, "training")
    check_arguments(target_modules=target_modules, settings=settings, seed=seed, precision=precision, threads=threads)
    raw = read_task(dataset, text=text, label=label, task=task)
    backbone, data = _inputs(model, tokenizer, raw, chosen, head_modules)
    warnings = check_reading(backbone.name, backbone.model, backbone.tokenizer, raw, data, chosen.pad_to_multiple_of)
    request = resolve(backbone, method, budget, target_modules=target_modules, settings=settings, precision=precision)
    identity = CellIdentity(
        stage="curve",
        label=method,
        method=method,
        method_version=METHODS[method].version,
        config=request.config.model_dump(mode="json"),
        training=chosen.model_dump(mode="json"),
        model=backbone.name,
        model_digest=backbone.digest,
        task=data.name,
        data_digest=data.digest,
        target_modules=tuple(module.name for module in request.modules),
        budget=request.budget,
        seed=seed,
        dtype=request.dtype,
        precision=request.precision,
        quantization=stored_quantization(backbone.model),
        threads=_threads(backbone.parameters) if threads is None else threads,
    )
    temporary = tempfile.TemporaryDirectory(prefix="adapad-") if folder is None else None
    place = Path(temporary.name if folder is None else folder)  # type: ignore[union-attr]
    with cpu_threads(identity.threads), borrowed(backbone, identity.precision):
        result = _Cells(Workspace(backbone, data, request.device), place, on_progress).compute(identity, request)
    excluded = left_out(backbone.model) if target_modules == ALL_LINEAR else None
    suspicious = (*data.warnings, *warnings, *([] if excluded is None else [excluded]))
    return TrainedAdapter(result, place / result.id, backbone, data, raw.source, suspicious, temporary)


def _threads(parameters: int) -> int:
    return 1 if parameters < SHARED_FROM else min(torch.get_num_threads(), usable_cpus())


def _inputs(
    model: nn.Module | str,
    tokenizer: Any,
    raw: RawTask,
    training: TrainingSettings,
    head_modules: Sequence[str] | None,
) -> tuple[Backbone, TaskData]:
    kind, limits = TYPES[raw.type], {name: getattr(training, name) for name in DATA_SETTINGS}
    if isinstance(model, str):
        if tokenizer is not None or head_modules is not None:
            raise BadRequestError(f"tokenizer and head_modules are for a model that is an object, not for {model!r}")
        data = encode(raw, kind.reader(model), **limits)
        return kind.recipe(model, data).load(), data
    if kind.auto_class in (None, IMAGES):
        raise BadRequestError(f"a {raw.type} task takes its model by name or folder, not as an object")
    if tokenizer is None:
        raise BadRequestError("model is an object without its tokenizer: pass tokenizer= too")
    outputs = kind.outputs(raw.class_names)
    backbone = own_backbone(
        model, tokenizer, outputs=outputs, auto_class=str(kind.auto_class), head_modules=head_modules
    )
    return backbone, encode(raw, backbone.tokenizer, **limits)


@dataclass(frozen=True)
class _Cells:
    """The cells of one folder, each computed once."""

    workspace: Workspace
    folder: Path
    on_progress: OnProgress | None

    def compute(self, identity: CellIdentity, request: Request) -> CellResult:
        """The record of a cell; its parent, where it has one, is computed before it."""
        data, backbone = self.workspace.data, self.workspace.backbone
        method = make_method(identity, request.modules, len(data.splits["train"]), backbone.parameters)
        method.plan()  # rejects what cannot be built, before a parent is trained
        above, parent = parent_identity(identity, method), None
        if above is not None:
            parent = self.folder / self.compute(above, request).id
            identity = identity.model_copy(update={"parent": parent.name})
        cell = Cell(identity)
        place = self.folder / cell.id
        if (place / RECORD).exists():
            return CellResult.model_validate_json((place / RECORD).read_text(encoding="utf-8"))
        result = run_cell(
            CellRequest(cell.id, identity, place, backbone.name, parent), self.workspace, on_progress=self.on_progress
        )
        assert result is not None, "the only worker leads"
        return result
