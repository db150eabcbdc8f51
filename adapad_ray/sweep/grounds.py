"""What a sweep stands on, made once before anything starts: the model and the tokenised data."""

from __future__ import annotations

from dataclasses import dataclass

from adapad_ray.errors import BadRequestError
from adapad_ray.models import Backbone, backbone_parameters, load_backbone, load_skeleton, load_tokenizer
from adapad_ray.sweep.planner import Grounds
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import RawTask, TaskData, encode, load_task, resolve_task


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
    raw = load_task(resolve_task(spec.task))
    backbone = load_backbone(spec.model, len(raw.label_names), pooling=spec.pooling, dtype=spec.dtype)
    data = _encode(spec, raw, backbone.tokenizer)
    return LoadedGrounds(Grounds(backbone.model, backbone.parameters, backbone.digest, data), backbone)


def sketch_grounds(spec: SweepSpec) -> Grounds:
    """The same without weights, on the meta device: enough to plan."""
    raw = load_task(resolve_task(spec.task))
    model = load_skeleton(spec.model, len(raw.label_names), spec.pooling)
    data = _encode(spec, raw, load_tokenizer(spec.model))
    return Grounds(model, backbone_parameters(model), "not loaded", data)


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
