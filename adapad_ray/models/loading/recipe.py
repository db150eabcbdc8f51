"""The recipe of a backbone: found and checked without reading a weight, then loaded by each process that needs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.mixed import use_bf16_products
from adapad_ray.frozen_linear.quantized import keep_products_exact
from adapad_ray.models.backbone import Backbone, backbone_parameters, linear_backbone, parse_dtype
from adapad_ray.models.checkpoint_files import missing_layers
from adapad_ray.models.head import find_head_modules, initialise_head
from adapad_ray.models.loading.attention import check_attention, missing_attention
from adapad_ray.models.loading.checkpoint import Checkpoint, find_checkpoint
from adapad_ray.models.loading.quantization import (
    check_quantization,
    check_quantized,
    dense_linears,
    quantization_config,
    reject_second_quantization,
)
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import ModelSource, Pooling, read_config, resolve_model
from adapad_ray.models.task_classes import (
    CAUSAL,
    SEQUENCES,
    check_architecture,
    choose_pooling,
    project_classifier,
    without_pooler,
)
from adapad_ray.models.tokenizer import load_tokenizer

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
"""Names of dtypes in safetensors files."""
_READ_BY_PEFT = {"is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer", "quantization_method"}
"""Attributes of a quantised model by which PEFT chooses the layers that it puts around those of the model."""


class BackboneRecipe(ABC):
    """How a process loads a backbone itself. It is small, and is sent to workers in the place of weights."""

    frame: Backbone
    """The backbone with every parameter on the meta device."""

    @abstractmethod
    def private_bytes(self) -> int:
        """Return the bytes of weights that every process on a CPU has for itself.

        Weights that are stored in the backbone's dtype are the files themselves, mapped: one copy for a whole node.
        """

    @property
    def shareable(self) -> bool:
        """Whether the weights are plain tensors, which the object store can hold."""
        return True

    @abstractmethod
    def load(self, device: str = "cpu") -> Backbone:
        """Load the backbone with its weights.

        Raises:
            AbsentCheckpointError: this node has not the files.
        """


@dataclass(frozen=True)
class LoadingOptions:
    """The arguments of `load_backbone` that are the same wherever the files are."""

    num_labels: int
    auto_class: str
    pooling: Pooling
    dtype: str
    precision: str
    seed: int
    quantization: str | None
    attn_implementation: str | None


@dataclass(frozen=True)
class CheckpointRecipe(BackboneRecipe):
    """A backbone from the files of a pretrained model."""

    frame: Backbone
    checkpoint: Checkpoint
    options: LoadingOptions

    def private_bytes(self) -> int:
        """Those of weights that are converted to another dtype, and of their copies in bf16.

        Quantised weights, which every process has for itself, are not counted, because they cannot be shared.
        """
        if not self.shareable:
            return 0
        kept = self.checkpoint.stored_dtypes() <= {_STORED[self.options.dtype]}
        converted = 0 if kept else parse_dtype(self.options.dtype).itemsize
        return self.frame.parameters * (converted + (2 if self.options.precision == "mixed" else 0))

    @property
    def shareable(self) -> bool:
        """False for a quantised model."""
        return self.options.quantization is None and not self.checkpoint.quantized

    def load(self, device: str = "cpu") -> Backbone:
        """Read the files, tensor by tensor, straight to the device."""
        frame = self.frame
        checkpoint = self.checkpoint.on_this_node(frame.pooling, frame.digest)
        model, _, _ = _read(checkpoint, self.options, device, dense_linears(frame.model))
        _prepare(model, self.options, frame.tokenizer, frame.head_modules)
        return replace(frame, model=model)


@dataclass(frozen=True)
class LinearRecipe(BackboneRecipe):
    """A `LinearModel` of zeros."""

    frame: Backbone
    dtype: str

    @classmethod
    def of(cls, in_features: int, out_features: int, dtype: str) -> LinearRecipe:
        """The recipe of a model of these sizes."""
        return cls(linear_backbone(in_features, out_features, dtype=dtype, device="meta"), dtype)

    def private_bytes(self) -> int:
        """All of them."""
        return self.frame.parameters * parse_dtype(self.dtype).itemsize

    def load(self, device: str = "cpu") -> Backbone:
        """Make the model."""
        layer: Any = self.frame.model.get_submodule("layers.0")
        return linear_backbone(layer.in_features, layer.out_features, dtype=self.dtype, device=device)


def find_recipe(
    source: str,
    num_labels: int,
    *,
    auto_class: str = SEQUENCES,
    pooling: str | None = None,
    dtype: str = "float32",
    precision: str = "full",
    seed: int = 0,
    quantization: str | None = None,
    attn_implementation: str | None = None,
) -> CheckpointRecipe:
    """Check a pretrained model as `load_backbone` does, without reading its weights but for their digest.

    Weights that the files hold quantised are read, and dropped.

    Args and Raises: as `load_backbone`.
    """
    checkpoint, options = _find(
        source, num_labels, auto_class, pooling, dtype, precision, seed, quantization, attn_implementation
    )
    # What the files hold quantised cannot be read on the meta device.
    backbone = _backbone(checkpoint, options, "cpu" if checkpoint.quantized else "meta")
    if checkpoint.quantized:
        _drop_weights(backbone.model)
    return CheckpointRecipe(backbone, checkpoint, options)


def _drop_weights(model: nn.Module) -> None:
    """Move a model to the meta device in place, whatever classes its weights have."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            meta = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=False)
            setattr(module, name, empty.setdefault(id(p), meta))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(buffer, device="meta"))


def load_backbone(
    source: str,
    num_labels: int,
    *,
    auto_class: str = SEQUENCES,
    pooling: str | None = None,
    dtype: str = "float32",
    precision: str = "full",
    seed: int = 0,
    quantization: str | None = None,
    attn_implementation: str | None = None,
) -> Backbone:
    """Load a pretrained model, frozen and in eval mode, with a head initialised from `seed`.

    Weights come from safetensors only, and no code of a checkpoint is run. A classifier that the checkpoint brings is
    replaced, because its classes are not the task's. The global random state is left as it was. Weights that are stored
    in the dtype that is asked for stay in the file, mapped into memory; others are converted.

    Args:
        source: a packaged name, a folder or a Hub name.
        num_labels: outputs of the head: number of classes, 1 for regression, 2 for the start and end of a span.
        auto_class: the name of one of transformers' auto classes.
        pooling: `mean` or `own`, for sequences only; default: what the model declares.
        dtype: `float32`, `bfloat16`, `float16` or `float64`.
        precision: `full`, or `mixed`, which trains an fp32 backbone with products in bf16.
        seed: of the head's initialisation.
        quantization: `nf4`, `int8` or `fp8`.
        attn_implementation: one of `loading.attention`; default: what transformers chooses.

    Raises:
        BadRequestError: the model cannot be loaded, or an argument does not fit it.
    """
    found = _find(source, num_labels, auto_class, pooling, dtype, precision, seed, quantization, attn_implementation)
    return _backbone(*found, "cpu")


def _find(
    source: str,
    num_labels: int,
    auto_class: str,
    pooling: str | None,
    dtype: str,
    precision: str,
    seed: int,
    quantization: str | None,
    attn_implementation: str | None,
) -> tuple[Checkpoint, LoadingOptions]:
    parse_dtype(dtype)
    for missing in missing_attention(attn_implementation):
        raise BadRequestError(missing)
    if quantization is not None:
        check_quantization(quantization, dtype)
    resolved = resolve_model(source)
    chosen = choose_pooling(resolved, pooling, num_labels, auto_class)
    options = LoadingOptions(num_labels, auto_class, chosen, dtype, precision, seed, quantization, attn_implementation)
    reject_second_quantization(source, quantization)
    return find_checkpoint(resolved, source), options


def _backbone(checkpoint: Checkpoint, options: LoadingOptions, device: str) -> Backbone:
    source = checkpoint.source
    model, missing, left_over = _read(checkpoint, options, device if options.quantization is None else "meta")
    check_attention(model, options.attn_implementation, source)
    reads_texts = getattr(model, "main_input_name", "input_ids") == "input_ids"
    tokenizer = load_tokenizer(source) if reads_texts else None
    head = find_head_modules(model, missing, source, options.auto_class)
    parameters, warnings = backbone_parameters(model, head), missing_layers(source, model, left_over)
    if options.quantization is not None:
        model, _, _ = _read(checkpoint, options, device, dense_linears(model))
        check_quantized(model, options.quantization, source)
    _prepare(model, options, tokenizer, head)
    digest = checkpoint.digest(options.pooling)
    return Backbone(source, model, tokenizer, head, options.pooling, digest, parameters, warnings)


def _read(
    checkpoint: Checkpoint, options: LoadingOptions, device: str, dense: Sequence[str] | None = None
) -> tuple[Any, set[str], set[str]]:
    """Return the model with its head, the parameters that the checkpoint lacks, and those that only it has.

    Args:
        dense: paths of the linear layers that are not quantised; None quantises none.
    """
    source, folder, auto_class = checkpoint.source, str(checkpoint.folder), options.auto_class
    with reading_model(source), torch.random.fork_rng():
        config = read_config(ModelSource(folder, options.pooling))
        check_architecture(config, auto_class, source)
        how: dict[str, Any] = {"config": config, "dtype": parse_dtype(options.dtype), "output_loading_info": True}
        how |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
        if device != "cpu":
            how["device_map"] = {"": device}
        if device != "meta" and options.attn_implementation is not None:  # its kernels do not tell shapes alone
            how["attn_implementation"] = options.attn_implementation
        classifier = project_classifier(config, options.pooling, auto_class)
        if options.quantization is not None and dense is not None:
            paths = dense if classifier is None else _inside(dense)
            how["quantization_config"] = quantization_config(options.quantization, how["dtype"], paths)
            how["device_map"] = {"": device}  # its default is a GPU
        if classifier is not None:
            encoder, info = transformers.AutoModel.from_pretrained(folder, **without_pooler(config), **how)
            with torch.device(device):
                model: Any = classifier(encoder, options.num_labels)
            for mark in _READ_BY_PEFT & vars(encoder).keys():
                setattr(model, mark, getattr(encoder, mark))
            prefix = f"{model.base_model_prefix}."
            return model, {prefix + key for key in _lacking(info)}, set(info["unexpected_keys"])
        if auto_class != CAUSAL:
            config.num_labels = options.num_labels
        model, info = getattr(transformers, auto_class).from_pretrained(folder, **how)
        return model, _lacking(info), set(info["unexpected_keys"])


def _inside(paths: Sequence[str]) -> list[str]:
    """Paths of a task model inside its encoder, which is the first part of them."""
    return [path.partition(".")[2] for path in paths if "." in path]


def _lacking(info: Mapping[str, Any]) -> set[str]:
    """The parameters that a checkpoint lacks, or has with another shape than the configuration says."""
    return set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def _prepare(model: Any, options: LoadingOptions, tokenizer: Any, head: tuple[str, ...]) -> None:
    """Make a loaded model the frozen backbone with a fresh head, in place."""
    if isinstance(getattr(model, "generation_config", None), transformers.GenerationConfig):
        # Settings of generation_config.json, such as a repetition penalty, would change greedy answers.
        model.generation_config = transformers.GenerationConfig()
    if tokenizer is not None:
        for part in (model.config, model.config.get_text_config()):
            part.pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False).eval()
    initialise_head(model, head, options.seed)
    keep_products_exact(model)
    if options.precision == "mixed":
        use_bf16_products(model, skip=head)
