"""The backbone: a frozen pretrained model with a fresh task head, loaded from safetensors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.mixed import use_bf16_products
from adapad_ray.models.checkpoint_files import missing_layers, weight_files
from adapad_ray.models.head import find_head_modules, initialise_head
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import ModelSource, Pooling, read_config, resolve_model
from adapad_ray.models.target_modules import base_prefix
from adapad_ray.models.task_classes import (
    CAUSAL,
    SEQUENCES,
    check_architecture,
    choose_pooling,
    project_classifier,
    without_pooler,
)
from adapad_ray.models.task_models import LINEAR, LinearModel
from adapad_ray.models.tokenizer import load_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Backbone:
    """A frozen model with a fresh task head; every parameter has `requires_grad=False`."""

    name: str
    """As the user gave it: a packaged name, a folder or a Hub name."""
    model: nn.Module
    """Takes `input_ids, attention_mask[, token_type_ids]` `[batch, tokens]`, `pixel_values`, or `inputs_embeds`. Its
    output has `.logits`, or `.start_logits` and `.end_logits` for spans."""
    tokenizer: Any
    """None for a model that reads no texts."""
    head_modules: tuple[str, ...]
    """Paths of the layers to train as the head (see `head.find_head_modules`)."""
    pooling: Pooling
    digest: str
    """sha256 over pooling, configuration and pretrained weights."""
    parameters: int
    """Number of parameters of the backbone, head apart."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the checkpoint; one sentence each."""

    @property
    def pad_token_id(self) -> int:
        """The token that fills up batches; 0, which is never read, without a tokenizer."""
        return 0 if self.tokenizer is None else int(self.tokenizer.pad_token_id)

    def twin(self) -> Backbone:
        """The same frozen weights, not copied, in modules of their own, with a head of its own: for a cell that trains
        beside others."""
        own = {id(p) for path in self.head_modules for p in self.model.get_submodule(path).parameters()}
        tensors = chain(self.model.parameters(), self.model.buffers())
        # deepcopy treats what is in its memo as copied.
        shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors if id(tensor) not in own}
        return replace(self, model=copy.deepcopy(self.model, shared))


def load_backbone(
    source: str,
    num_labels: int,
    *,
    auto_class: str = SEQUENCES,
    pooling: str | None = None,
    dtype: str = "float32",
    precision: str = "full",
    seed: int = 0,
) -> Backbone:
    """Load a pretrained model, frozen and in eval mode, with a head initialised from `seed`.

    Weights come from safetensors only, and no code of a checkpoint is run. A classifier that the checkpoint brings is
    replaced, because its classes are not the task's. The global random state is left as it was.

    Args:
        source: a packaged name, a folder or a Hub name.
        num_labels: outputs of the head: number of classes, 1 for regression, 2 for the start and end of a span.
        auto_class: the name of one of transformers' auto classes.
        pooling: `mean` or `own`, for sequences only; default: what the model declares.
        dtype: `float32`, `bfloat16`, `float16` or `float64`.
        precision: `full`, or `mixed`, which trains an fp32 backbone with products in bf16.
        seed: of the head's initialisation.

    Raises:
        BadRequestError: the model cannot be loaded, or an argument does not fit it.
    """
    torch_dtype = parse_dtype(dtype)
    resolved = resolve_model(source)
    chosen = choose_pooling(resolved, pooling, num_labels, auto_class)
    files = None if resolved.folder is None else weight_files(resolved.folder, source)
    with reading_model(source), torch.random.fork_rng():
        model, missing, left_over = _read_weights(source, resolved, num_labels, auto_class, chosen, torch_dtype)
    if isinstance(getattr(model, "generation_config", None), transformers.GenerationConfig):
        # Settings of generation_config.json, such as a repetition penalty, would change greedy answers.
        model.generation_config = transformers.GenerationConfig()
    tokenizer = None
    if getattr(model, "main_input_name", "input_ids") == "input_ids":
        tokenizer = load_tokenizer(source)
        for part in (model.config, model.config.get_text_config()):
            part.pad_token_id = tokenizer.pad_token_id
    head = find_head_modules(model, missing, source, auto_class)
    model.requires_grad_(False).eval()
    initialise_head(model, head, seed)
    digest = _digest(resolved, files, chosen, model, head)
    if precision == "mixed":
        use_bf16_products(model, skip=head)
    parameters, warnings = backbone_parameters(model, head), missing_layers(source, model, left_over)
    return Backbone(source, model, tokenizer, head, chosen, digest, parameters, warnings)


def linear_backbone(in_features: int, out_features: int, *, dtype: str = "float32", device: str = "cpu") -> Backbone:
    """Make a `LinearModel`; it has neither tokenizer nor head.

    Raises:
        BadRequestError: the dtype is unknown.
    """
    with torch.device(device):
        model = LinearModel(in_features, out_features, parse_dtype(dtype)).requires_grad_(False).eval()
    digest = hashlib.sha256(f"{LINEAR} {in_features} {out_features}\n".encode()).hexdigest()
    return Backbone(LINEAR, model, None, (), "own", digest, backbone_parameters(model))


def backbone_parameters(model: nn.Module, head_modules: Sequence[str] = ()) -> int:
    """Count the parameters of the base model, without those of `head_modules` inside it.

    Leave `head_modules` out for a skeleton: its head is everything outside the base model. The output embedding of a
    language model is no task head. It counts, once where it is tied to the input embedding.
    """
    predicts_tokens = getattr(model, "get_output_embeddings", lambda: None)() is not None
    base = "" if predicts_tokens else base_prefix(model)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(base) and name.rpartition(".")[0] not in head_modules
    )


def _read_weights(
    name: str, source: ModelSource, num_labels: int, auto_class: str, pooling: Pooling, dtype: torch.dtype
) -> tuple[Any, set[str], set[str]]:
    """Return the model with its head, the parameters that the checkpoint lacks, and those that only it has."""
    config = read_config(source)
    check_architecture(config, auto_class, name)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "output_loading_info": True}
    options |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    if (classifier := project_classifier(config, pooling, auto_class)) is not None:
        encoder, info = transformers.AutoModel.from_pretrained(source.path_or_name, **without_pooler(config), **options)
        model: Any = classifier(encoder, num_labels)
        return model, {f"{model.base_model_prefix}.{key}" for key in _lacking(info)}, set(info["unexpected_keys"])
    if auto_class != CAUSAL:
        config.num_labels = num_labels
    model, info = getattr(transformers, auto_class).from_pretrained(source.path_or_name, **options)
    return model, _lacking(info), set(info["unexpected_keys"])


def _lacking(info: Mapping[str, Any]) -> set[str]:
    """The parameters that a checkpoint lacks, or has with another shape than the configuration says."""
    return set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def parse_dtype(name: str) -> torch.dtype:
    """Return the dtype of this name.

    Raises:
        BadRequestError: the name is unknown.
    """
    if name not in _DTYPES:
        raise BadRequestError(f"dtype {name!r} is unknown: use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _digest(source: ModelSource, weights: list[Path] | None, pooling: Pooling, model: Any, head: Sequence[str]) -> str:
    """sha256 over the pooling and over the files of a folder, or over the loaded weights of a Hub model."""
    if source.folder is None or weights is None:
        return weights_digest(pooling, model, head)
    digest = hashlib.sha256(f"pooling {pooling}\n".encode())
    _update_from_files(digest, [source.folder / "config.json", *weights])
    return digest.hexdigest()


def weights_digest(pooling: Pooling, model: Any, head: Sequence[str]) -> str:
    """sha256 over the pooling, the configuration and all weights but the head's."""
    digest = hashlib.sha256(f"pooling {pooling}\n".encode())
    _update_from_weights(digest, model, head)
    return digest.hexdigest()


def _update_from_files(digest: Any, paths: Iterable[Path]) -> None:
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)


def _update_from_weights(digest: Any, model: Any, head: Sequence[str]) -> None:
    digest.update(model.config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in head:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy())
