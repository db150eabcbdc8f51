"""Completes an exported adapter: what PEFT's Auto classes, transformers and `adapad predict` need beside the weights.

The folders of cells hold the weights and their origin only, so that what is added here is in no cell's record.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from PIL.Image import Resampling

from adapad_ray.adapters.export import ADAPTER_CONFIG
from adapad_ray.assets import find_asset
from adapad_ray.deployment.loading_code import LoadingCode
from adapad_ray.deployment.model_card import CARD, CardFacts, model_card
from adapad_ray.deployment.record import RECORD, write_json
from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.models import CAUSAL, SEQUENCES, image_format, load_tokenizer, resolve_model
from adapad_ray.models.images import ImageFormat
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import read_config
from adapad_ray.models.task_classes import project_classifier
from adapad_ray.results import CellResult, Point
from adapad_ray.tasks import TYPES, DataSource

TASK_TYPES = {SEQUENCES: "SEQ_CLS", CAUSAL: "CAUSAL_LM", "AutoModelForQuestionAnswering": "QUESTION_ANS"}
"""PEFT's name of what an auto class is for; it has none for images."""
IMAGE_PROCESSOR = "preprocessor_config.json"
THRESHOLD = "no_answer_threshold"
"""Metric of questions that holds the threshold chosen on validation."""
_PLACES = set(DataSource.model_fields) - {"metric", "type"} | {"chat_template"}
"""Fields of a source that say where its rows are and how they are split."""


@dataclass(frozen=True)
class Training:
    """What a trained adapter came from."""

    cell: CellResult
    point: Point
    source: DataSource
    """The task, as `tasks.resolve_task` returns it."""
    card: CardFacts


def complete_adapter(folder: Path, training: Training) -> list[str]:
    """Adds what a copied adapter lacks: task type, class names, tokenizer or image processor, card, and the record for
    `adapad predict`.

    Returns:
        What could not be added because the base model cannot be read here; one sentence each.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record |= _record(training)
    warnings: list[str] = []
    chats = training.source.type == "chat"
    code = LoadingCode(record["auto_class"], _outputs(training, record["labels"]), chats=chats)
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    try:
        base = _read_base(record["model"])
        if TYPES[training.source.type].reads_texts:
            tokenizer = load_tokenizer(record["model"])
            tokenizer.chat_template = record.get("chat_template", tokenizer.chat_template)
            tokenizer.save_pretrained(folder)
        else:
            write_json(folder / IMAGE_PROCESSOR, _image_processor(image_format(record["model"])))
    except BadRequestError as error:
        warnings.append(f"tokenizer and class names are missing, because the base model cannot be read here: {error}")
    else:
        record["model"] = _absolute(record["model"])
        named = bool(record["labels"]) and record["auto_class"] != CAUSAL
        code = _loading_code(record, base, replace(code, named=named))
        config |= _base_fields(record, base, code)
        config["modules_to_save"] = _heads(config["modules_to_save"])
        if named:
            _name_classes(base, record["labels"]).save_pretrained(folder)
    record["loading"] = asdict(code)
    write_json(folder / RECORD, record)
    write_json(folder / ADAPTER_CONFIG, config)
    write_text(folder / CARD, model_card(training.card, record, code, folder.resolve().name))
    return warnings


def _record(training: Training) -> dict[str, Any]:
    """The fields of `AdapterRecord` that the cell's own file lacks."""
    cell, point, source = training.cell, training.point, training.source
    fields = set(TYPES[source.type].Source.model_fields) - _PLACES
    task = source.model_dump(mode="json", include=fields)
    threshold = point.validation.get(THRESHOLD)
    return {
        "task": task,
        "max_length": cell.identity.training["max_length"],
        "batch_size": cell.identity.training["evaluation_batch_size"],
        "dtype": cell.identity.dtype,
        "quantization": cell.identity.quantization,
        "settings": {} if threshold is None or not math.isfinite(threshold) else {"threshold": threshold},
        "method": cell.identity.method,
        "budget": cell.identity.budget,
        "seed": cell.identity.seed,
        "validation": dict(point.validation),
        "test": dict(point.test),
    }


def _image_processor(images: ImageFormat) -> dict[str, Any]:
    """What `tasks.types.image` does with a picture, as transformers' image processors have it."""
    return {
        "image_processor_type": "ViTImageProcessor",
        **({"do_convert_rgb": True} if images.channels == 3 else {}),
        "do_resize": True,
        "size": {"height": images.size, "width": images.size},
        "resample": int(Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.deviation),
    }


def _outputs(training: Training, labels: list[str]) -> int:
    return TYPES[training.source.type].outputs(tuple(labels))


def _read_base(model: str) -> Any:
    """The base model's configuration."""
    with reading_model(model):
        return read_config(resolve_model(model))


def _absolute(model: str) -> str:
    """A path that does not depend on the current folder; other names as they are."""
    return str(Path(os.path.expanduser(model)).resolve()) if _is_folder(model) else model


def _is_folder(model: str) -> bool:
    return find_asset("model", model) is None and os.path.isdir(os.path.expanduser(model))


def _loading_code(record: Mapping[str, Any], base: Any, code: LoadingCode) -> LoadingCode:
    auto_class = record["auto_class"]
    own_class = project_classifier(base, record["pooling"], auto_class)
    arguments: dict[str, Any] = {}
    if own_class is not None:
        arguments["import_allowlist"] = ["adapad_ray"]
    elif auto_class in (SEQUENCES, "AutoModelForImageClassification"):
        others = base.num_labels != code.outputs and any("Classification" in name for name in base.architectures or ())
        arguments |= {"ignore_mismatched_sizes": True} if others else {}
    stored = getattr(base, "dtype", None)
    if own_class is None and stored is not None and str(stored).removeprefix("torch.") != record["dtype"]:
        arguments["dtype"] = record["dtype"]
    if own_class is None and auto_class == SEQUENCES and base.get_text_config().pad_token_id is None:
        arguments["pad_token_id"] = load_tokenizer(record["model"]).pad_token_id
    return replace(code, arguments=arguments, own_class=own_class is not None)


def _base_fields(record: Mapping[str, Any], base: Any, code: LoadingCode) -> dict[str, Any]:
    """The fields by which PEFT's Auto classes load the base model.

    A packaged model goes by its name where this package's class loads it, and by its folder in the cache where
    transformers does.
    """
    model, auto_class = record["model"], record["auto_class"]
    if code.own_class:
        classifier = project_classifier(base, record["pooling"], auto_class)
        assert classifier is not None
        mapping = {"base_model_class": classifier.__name__, "parent_library": classifier.__module__}
        return {"task_type": None, "auto_mapping": mapping, "base_model_name_or_path": model}
    path = resolve_model(model).path_or_name
    if (task_type := TASK_TYPES.get(auto_class)) is not None:
        return {"task_type": task_type, "base_model_name_or_path": path}
    architecture = getattr(transformers, auto_class)._model_mapping[type(base)]
    mapping = {"base_model_class": architecture.__name__, "parent_library": architecture.__module__}
    return {"task_type": None, "auto_mapping": mapping, "base_model_name_or_path": path}


def _heads(modules: list[str]) -> list[str]:
    """Layers of a head by their outermost module, as PEFT names it for its task types: `classifier`.

    Layers inside the base model, such as a pooler, keep their paths.
    """
    return list(dict.fromkeys(m.split(".")[0] if m.split(".")[0] in ("classifier", "score") else m for m in modules))


def _name_classes(config: Any, labels: list[str]) -> Any:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    return config
