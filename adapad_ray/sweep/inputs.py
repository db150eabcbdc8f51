"""The inputs of a sweep, made once before anything starts: the model and the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.models import BackboneRecipe, backbone_parameters, keeps_sizes, unloadable_weights
from adapad_ray.models.loading.attention import check_attention, missing_attention
from adapad_ray.models.loading.quantization import missing_package, reject_second_quantization
from adapad_ray.models.target_modules import ALL_LINEAR, left_out
from adapad_ray.results import Precision
from adapad_ray.sweep.precision import resolve_precision
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import TYPES, DataLimits, RawTask, Source, TaskData, resolve_task
from adapad_ray.training.cell.reading import check_reading
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings


@dataclass(frozen=True)
class SweepInputs:
    """The model and the data of a sweep: what its cells are identified and counted by."""

    model: Any
    """The backbone on the meta device, without weights."""
    backbone_parameters: int
    model_digest: str
    """sha256 of the weights; "not loaded" for a skeleton."""
    data: TaskData
    precision: Precision = "full"
    tokens_are_words: bool = False
    """Whether lengths are counted in words, because the model's tokenizer is missing."""
    rows_are_assumed: bool = False
    """Whether the data are missing: their number of rows is the declared one and every row has `max_length` tokens."""
    sizes_are_packaged: bool = False
    """Whether the model's configuration comes from this package, because the Hub cannot be reached."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the data, the tokenizer and the model; one sentence each."""


@dataclass(frozen=True)
class LoadedInputs:
    """The inputs of a sweep that will train, and how its workers load the backbone."""

    inputs: SweepInputs
    recipe: BackboneRecipe


def load_inputs(spec: SweepSpec) -> LoadedInputs:
    """Loads the data, and checks the model in the precision that `resolve_precision` gives; no weight is kept.

    Raises:
        BadRequestError: the task, the model or a data setting is unusable, or they do not go together.
    """
    source, limits, precision = _source(spec), _limits(spec), resolve_precision(spec)
    kind = TYPES[source.type]
    raw = kind.read(source)
    reader = kind.reader(spec.model)
    data = kind.encode(raw, reader, limits)
    recipe = kind.recipe(
        spec.model,
        data,
        pooling=spec.pooling,
        dtype=spec.dtype,
        precision=precision,
        quantization=spec.quantization,
        attn_implementation=spec.attn_implementation,
    )
    backbone = recipe.frame
    read = check_reading(spec.model, backbone.model, reader, raw, data, _multiple(spec))
    warnings = (*data.warnings, *backbone.warnings, *read, *_left_out(spec, backbone.model))
    inputs = SweepInputs(backbone.model, backbone.parameters, backbone.digest, data, precision, warnings=warnings)
    return LoadedInputs(inputs, recipe)


def sketch_inputs(spec: SweepSpec) -> SweepInputs:
    """Makes the inputs without weights, on the meta device: enough to plan. A model folder needs `config.json` only.

    Missing data are replaced by as many rows as their source declares.

    Raises:
        BadRequestError: as `load_inputs`.
    """
    source, limits = _source(spec), _limits(spec)
    reject_second_quantization(spec.model, spec.quantization)
    kind = TYPES[source.type]
    try:
        raw = kind.read(source)
    except UnreachableError:
        if not kind.declares_rows(source):
            raise
        raw = None
    reader, own = kind.planning_reader(spec.model)
    data = kind.assume(source, reader, limits) if raw is None else kind.encode(raw, reader, limits)
    model = kind.skeleton(spec.model, data, pooling=spec.pooling)
    check_attention(model, spec.attn_implementation, spec.model)
    return SweepInputs(
        model,
        backbone_parameters(model),
        "not loaded",
        data,
        resolve_precision(spec),
        tokens_are_words=not own and raw is not None,
        rows_are_assumed=raw is None,
        sizes_are_packaged=keeps_sizes(spec.model),
        warnings=(
            *data.warnings,
            *unloadable_weights(spec.model),
            *missing_package(spec.quantization),
            *missing_attention(spec.attn_implementation),
            *_left_out(spec, model),
            *_check_sketch(spec, model, reader if own else None, raw, data),
        ),
    )


def _check_sketch(
    spec: SweepSpec, model: nn.Module, tokenizer: Any, raw: RawTask | None, data: TaskData
) -> tuple[str, ...]:
    if tokenizer is None or raw is None:
        return ()
    return check_reading(spec.model, model, tokenizer, raw, data, _multiple(spec))


def _left_out(spec: SweepSpec, model: nn.Module) -> tuple[str, ...]:
    """What `all-linear` leaves out, as a warning, where a label uses it."""
    words = left_out(model) if any(spec.modules_of(label) == ALL_LINEAR for label in spec.labels()) else None
    if words is None:
        return ()
    return (words if spec.quantization is None else f"{words}; quantization {spec.quantization} leaves them dense",)


def _multiple(spec: SweepSpec) -> int:
    return max(spec.training_settings(label).pad_to_multiple_of for label in spec.labels())


def _source(spec: SweepSpec) -> Source:
    """The task's source, if the sweep's model and data settings go with it."""
    source = resolve_task(spec.task, spec.data_dir)
    fields = TrainingSettings.model_fields
    limited = [name for name in DATA_SETTINGS if getattr(spec.training, name) != fields[name].default]
    TYPES[source.type].check(spec.model, limited)
    _check_packing(spec, source)
    return source


def _check_packing(spec: SweepSpec, source: Source) -> None:
    spaces = [stage.space for stage in (spec.tune, spec.search) if stage is not None]
    spaces += [entry.space for entry in spec.methods.values() if entry.space is not None]
    asked = [label for label in spec.labels() if spec.training_settings(label).pack_sequences]
    if (asked or any("pack_sequences" in space for space in spaces)) and not TYPES[source.type].can_pack_sequences:
        able = ", ".join(name for name, kind in TYPES.items() if kind.can_pack_sequences)
        raise BadRequestError(
            f"training.pack_sequences is for causal language models, in tasks of type {able}: this one is of type "
            f"{source.type}, so remove it"
        )


def _limits(spec: SweepSpec) -> DataLimits:
    lengths = {spec.training_settings(label).max_length for label in spec.labels()}
    if len(lengths) > 1:
        raise BadRequestError(f"max_length must be the same for all methods of a sweep, but got {sorted(lengths)}")
    return DataLimits(**{name: getattr(spec.training, name) for name in DATA_SETTINGS})
