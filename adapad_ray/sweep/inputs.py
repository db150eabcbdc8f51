"""The inputs of a sweep, made once before anything starts: the model and the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.models import CAUSAL, Backbone, Reading, backbone_parameters, check_texts, keeps_sizes
from adapad_ray.sweep.precision import resolve_precision
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import TYPES, DataLimits, RawTask, Source, TaskData, resolve_task
from adapad_ray.training.batches import pad_to_multiple
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
    precision: Literal["full", "mixed"] = "full"
    """`mixed`: in training, the products with frozen weights are in bf16."""
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
    """The inputs of a sweep that will train, with the model's weights."""

    inputs: SweepInputs
    backbone: Backbone


def load_inputs(spec: SweepSpec) -> LoadedInputs:
    """Loads the data and the model with its weights, in the precision that `resolve_precision` gives.

    Raises:
        BadRequestError: the task, the model or a data setting is unusable, or they do not go together.
    """
    source, limits, precision = _source(spec), _limits(spec), resolve_precision(spec)
    kind = TYPES[source.type]
    raw = kind.read(source)
    reader = kind.reader(spec.model)
    data = kind.encode(raw, reader, limits)
    backbone = kind.backbone(spec.model, data, pooling=spec.pooling, dtype=spec.dtype, precision=precision)
    warnings = (*data.warnings, *_check_reading(spec, backbone.model, reader, raw, data))
    inputs = SweepInputs(backbone.model, backbone.parameters, backbone.digest, data, precision, warnings=warnings)
    return LoadedInputs(inputs, backbone)


def sketch_inputs(spec: SweepSpec) -> SweepInputs:
    """Makes the inputs without weights, on the meta device: enough to plan. A model folder needs `config.json` only.

    Missing data are replaced by as many rows as their source declares.

    Raises:
        BadRequestError: as `load_inputs`.
    """
    source, limits = _source(spec), _limits(spec)
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
    return SweepInputs(
        model,
        backbone_parameters(model),
        "not loaded",
        data,
        resolve_precision(spec),
        tokens_are_words=not own and raw is not None,
        rows_are_assumed=raw is None,
        sizes_are_packaged=keeps_sizes(spec.model),
        warnings=(*data.warnings, *(_check_reading(spec, model, reader, raw, data) if own and raw is not None else ())),
    )


def _check_reading(spec: SweepSpec, model: nn.Module, tokenizer: Any, raw: RawTask, data: TaskData) -> tuple[str, ...]:
    """Check that the model can read every text; return what is only suspicious. Other data need no check."""
    splits: dict[str, Any] = {name: getattr(split, "windows", split) for name, split in data.splits.items()}
    if not all(hasattr(split, "tokens") for split in splits.values()):
        return ()
    prompts = TYPES[data.type].auto_class == CAUSAL
    pair = "text_pair" in raw.splits["train"]
    multiple = max(spec.training_settings(label).pad_to_multiple_of for label in spec.labels())
    return check_texts(
        Reading(
            spec.model,
            model,
            tokenizer,
            splits,
            added_tokens=None if prompts else tokenizer.num_special_tokens_to_add(pair=pair),
            pad=partial(
                pad_to_multiple,
                multiple=multiple,
                pad_token_id=tokenizer.pad_token_id,
                left=getattr(splits["train"], "pads_left", False),
            ),
            answer_tokens=_answer_tokens(data),
        )
    )


def _answer_tokens(data: TaskData) -> int:
    """Tokens that generation may add beyond the longest sequence of the splits."""
    most = data.settings.get("max_new_tokens")
    if most is None:
        return 0
    longest = max(int(split.lengths.max()) for split in data.splits.values())
    prompt = max(int((split.lengths - split.answered).max()) for split in data.splits.values())  # type: ignore[attr-defined]
    return max(0, prompt + int(most) - longest)


def _source(spec: SweepSpec) -> Source:
    """The task's source, if the sweep's model and data settings go with it."""
    source = resolve_task(spec.task, spec.data_dir)
    fields = TrainingSettings.model_fields
    limited = [name for name in DATA_SETTINGS if getattr(spec.training, name) != fields[name].default]
    TYPES[source.type].check(spec.model, limited)
    return source


def _limits(spec: SweepSpec) -> DataLimits:
    lengths = {spec.training_settings(label).max_length for label in spec.labels()}
    if len(lengths) > 1:
        raise BadRequestError(f"max_length must be the same for all methods of a sweep, but got {sorted(lengths)}")
    return DataLimits(**{name: getattr(spec.training, name) for name in DATA_SETTINGS})
