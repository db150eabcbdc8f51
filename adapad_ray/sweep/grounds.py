"""What a sweep stands on, made once before anything starts: the model and the data."""

from __future__ import annotations

from dataclasses import dataclass

from adapad_ray.assets import Asset
from adapad_ray.errors import BadRequestError
from adapad_ray.models import (
    LINEAR,
    Backbone,
    backbone_parameters,
    linear_backbone,
    load_backbone,
    load_skeleton,
    sketch_tokenizer,
)
from adapad_ray.sweep.planner import Grounds
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import (
    BilinearSource,
    RawTask,
    TaskData,
    TaskSource,
    encode,
    load_task,
    make_bilinear,
    resolve_task,
)
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings


@dataclass(frozen=True)
class LoadedGrounds:
    """Grounds with weights, for a sweep that will run."""

    grounds: Grounds
    backbone: Backbone


def load_grounds(spec: SweepSpec) -> LoadedGrounds:
    """Loads model and data and checks what can be checked before Ray starts.

    Raises:
        BadRequestError: one sentence about model, task or columns.
    """
    source = _source(spec)
    if isinstance(source, BilinearSource):
        backbone = linear_backbone(source.in_features, source.out_features, dtype=spec.dtype)
        data = make_bilinear(source)
        return LoadedGrounds(Grounds(backbone.model, backbone.parameters, backbone.digest, data), backbone)
    raw = load_task(source)
    backbone = load_backbone(spec.model, len(raw.label_names), pooling=spec.pooling, dtype=spec.dtype)
    data = _encode(spec, raw, backbone.tokenizer)
    return LoadedGrounds(Grounds(backbone.model, backbone.parameters, backbone.digest, data), backbone)


def sketch_grounds(spec: SweepSpec) -> Grounds:
    """The same without weights, on the meta device: enough to plan. A local folder needs no more than `config.json`."""
    source = _source(spec)
    if isinstance(source, BilinearSource):
        sketch = linear_backbone(source.in_features, source.out_features, dtype=spec.dtype, device="meta")
        return Grounds(sketch.model, sketch.parameters, sketch.digest, make_bilinear(source))
    raw = load_task(source)
    model = load_skeleton(spec.model, len(raw.label_names), spec.pooling)
    tokenizer, own = sketch_tokenizer(spec.model)
    return Grounds(model, backbone_parameters(model), "not loaded", _encode(spec, raw, tokenizer), words=not own)


def _source(spec: SweepSpec) -> TaskSource | BilinearSource | Asset:
    """The task's source, if the model goes with it."""
    source = resolve_task(spec.task)
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


def _encode(spec: SweepSpec, raw: RawTask, tokenizer: object) -> TaskData:
    lengths = {spec.training_settings(label).max_length for label in spec.labels()}
    if len(lengths) > 1:
        raise BadRequestError(f"max_length must be the same for all methods of a sweep, but got {sorted(lengths)}")
    settings = spec.training
    return encode(
        raw,
        tokenizer,
        max_length=settings.max_length,
        max_train_examples=settings.max_train_examples,
        max_validation_examples=settings.max_validation_examples,
        max_test_examples=settings.max_test_examples,
    )
