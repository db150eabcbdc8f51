"""What a sweep stands on, made once before anything starts: the model and the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapad_ray.assets import Asset
from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.models import (
    IMAGES,
    LINEAR,
    Backbone,
    backbone_parameters,
    image_format,
    keeps_sizes,
    linear_backbone,
    load_backbone,
    load_skeleton,
    sketch_tokenizer,
)
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import (
    TYPES,
    BilinearSource,
    DataSource,
    RawTask,
    TaskData,
    assume,
    encode,
    load_task,
    make_bilinear,
    resolve_task,
)
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings


@dataclass(frozen=True)
class SweepInputs:
    """The model and the data of a sweep: what its cells are identified and counted by."""

    model: Any
    """The backbone, or its skeleton on the meta device."""
    backbone_parameters: int
    model_digest: str
    """sha256 of the weights; "not loaded" for a skeleton."""
    data: TaskData
    tokens_are_words: bool = False
    """Whether lengths are counted in words, because the model's tokenizer is missing."""
    rows_are_assumed: bool = False
    """Whether the data are missing: their number of rows is the declared one and every row has `max_length` tokens."""
    sizes_are_packaged: bool = False
    """Whether the model's configuration comes from this package, because the Hub cannot be reached."""


@dataclass(frozen=True)
class LoadedInputs:
    """The inputs of a sweep that will train, with the model's weights."""

    inputs: SweepInputs
    backbone: Backbone


def load_inputs(spec: SweepSpec) -> LoadedInputs:
    """Loads model and data and checks what can be checked before Ray starts.

    Raises:
        BadRequestError: one sentence about model, task or columns.
    """
    source = _source(spec)
    if isinstance(source, BilinearSource):
        backbone = linear_backbone(source.in_features, source.out_features, dtype=spec.dtype)
        data = make_bilinear(source)
        return LoadedInputs(SweepInputs(backbone.model, backbone.parameters, backbone.digest, data), backbone)
    raw = load_task(source)
    kind = TYPES[raw.type]
    backbone = load_backbone(
        spec.model,
        kind.outputs(raw.label_names),
        auto_class=kind.auto_class,
        pooling=spec.pooling,
        dtype=spec.dtype,
    )
    reader = image_format(spec.model) if kind.auto_class == IMAGES else backbone.tokenizer
    data = _encode(spec, raw, reader)
    return LoadedInputs(SweepInputs(backbone.model, backbone.parameters, backbone.digest, data), backbone)


def sketch_inputs(spec: SweepSpec) -> SweepInputs:
    """The same without weights, on the meta device: enough to plan. A local folder needs no more than `config.json`.

    Data that are not at hand are replaced by as many examples as their source says it has.
    """
    source = _source(spec)
    if isinstance(source, BilinearSource):
        sketch = linear_backbone(source.in_features, source.out_features, dtype=spec.dtype, device="meta")
        return SweepInputs(sketch.model, sketch.parameters, sketch.digest, make_bilinear(source))
    raw: RawTask | DataSource
    try:
        raw = load_task(source)
    except UnreachableError:
        if not isinstance(source, DataSource) or "train" not in source.examples:
            raise
        raw = source
    kind = TYPES[raw.type]
    reader, own = (image_format(spec.model), True) if kind.auto_class == IMAGES else sketch_tokenizer(spec.model)
    data = _encode(spec, raw, reader) if isinstance(raw, RawTask) else _assume(spec, raw, reader)
    model = load_skeleton(spec.model, kind.outputs(data.label_names), spec.pooling, auto_class=kind.auto_class)
    assumed = isinstance(raw, DataSource)
    return SweepInputs(
        model,
        backbone_parameters(model),
        "not loaded",
        data,
        tokens_are_words=not (own or assumed),
        rows_are_assumed=assumed,
        sizes_are_packaged=keeps_sizes(spec.model),
    )


def _source(spec: SweepSpec) -> DataSource | BilinearSource | Asset:
    """The task's source, if the model goes with it."""
    source = resolve_task(spec.task, spec.data_dir)
    linear = isinstance(source, BilinearSource)
    if linear != (spec.model == LINEAR):
        raise BadRequestError(
            f"model {spec.model!r} does not go with this task: model {LINEAR} is for task bilinear, and for no other"
        )
    if linear:
        for name in DATA_SETTINGS:
            if getattr(spec.training, name) != TrainingSettings.model_fields[name].default:
                raise BadRequestError(f"training.{name} is for texts: task bilinear has `examples` instead")
    return source


def _encode(spec: SweepSpec, raw: RawTask, reader: object) -> TaskData:
    settings = spec.training
    return encode(
        raw,
        reader,
        max_length=_max_length(spec),
        max_train_examples=settings.max_train_examples,
        max_validation_examples=settings.max_validation_examples,
        max_test_examples=settings.max_test_examples,
    )


def _assume(spec: SweepSpec, source: DataSource, reader: object) -> TaskData:
    settings = spec.training
    caps = {
        "train": settings.max_train_examples,
        "validation": settings.max_validation_examples,
        "test": settings.max_test_examples,
    }
    return assume(source, reader, max_length=_max_length(spec), caps=caps)


def _max_length(spec: SweepSpec) -> int:
    lengths = {spec.training_settings(label).max_length for label in spec.labels()}
    if len(lengths) > 1:
        raise BadRequestError(f"max_length must be the same for all methods of a sweep, but got {sorted(lengths)}")
    return spec.training.max_length
