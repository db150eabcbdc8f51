"""Quantising a backbone while it is loaded, through transformers' configurations for bitsandbytes and torchao."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapad_ray.errors import BadRequestError
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import resolve_for_planning
from adapad_ray.models.target_modules import layer_prefixes

Quantization = Literal["nf4", "int8", "fp8"]
"""How the linear layers of the repeated layers are stored: nf4 in 4 bits with a scale for every 64 weights (QLoRA,
2305.14314), int8 and fp8 in 8 bits with a scale for every row. All else stays in the backbone's dtype."""

PACKAGES: Mapping[str, str] = {"nf4": "bitsandbytes", "int8": "torchao", "fp8": "torchao"}
"""What stores and multiplies each."""


def check_quantization(quantization: str, dtype: str) -> None:
    """Check that a backbone can be quantised here.

    Raises:
        BadRequestError: the name is unknown, its package is missing, or it does not go with the dtype.
    """
    if quantization not in PACKAGES:
        known = ", ".join(get_args(Quantization))
        raise BadRequestError(f"quantization {quantization!r} is unknown: use one of {known}, or leave it out")
    if dtype == "float64":
        raise BadRequestError(f"quantization {quantization} does not go with dtype float64: use bfloat16 or float32")
    for missing in missing_package(quantization):
        raise BadRequestError(missing)


def reject_second_quantization(source: str, quantization: str | None) -> None:
    """Check that a model which is to be quantised is not stored so, without reading its weights.

    Raises:
        BadRequestError: it is, or its configuration cannot be read.
    """
    if quantization is None:
        return
    found = resolve_for_planning(source)
    with reading_model(source):
        settings, _ = transformers.PretrainedConfig.get_config_dict(found.path_or_name)
    if "quantization_config" in settings:
        raise BadRequestError(
            f"the weights of model {source!r} are quantised already: leave out quantization {quantization}"
        )


def missing_package(quantization: str | None) -> tuple[str, ...]:
    """Return, as one sentence, that the package of a quantisation is not installed; none where it is."""
    package = None if quantization is None else PACKAGES[quantization]
    if package is None or importlib.util.find_spec(package) is not None:
        return ()
    return (f"quantization {quantization} needs {package}, which is not installed: install adapad-ray[quantized]",)


def quantization_config(quantization: str, dtype: torch.dtype, dense: Sequence[str]) -> Any:
    """Return transformers' configuration.

    Args:
        dtype: of the products.
        dense: paths of the linear layers that stay dense.
    """
    if quantization == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(dense),
        )
    torchao = importlib.import_module("torchao.quantization")
    kind = torchao.Int8WeightOnlyConfig() if quantization == "int8" else torchao.Float8WeightOnlyConfig()
    return transformers.TorchAoConfig(kind, modules_to_not_convert=list(dense))


def dense_linears(model: nn.Module) -> list[str]:
    """Return the paths of the linear layers outside the repeated layers, such as heads and output embeddings."""
    layers = layer_prefixes(model)
    return [
        path for path, module in model.named_modules() if isinstance(module, nn.Linear) and not path.startswith(layers)
    ]


def check_quantized(model: nn.Module, quantization: str, source: str) -> None:
    """Check that every linear layer of the repeated layers is quantised.

    Raises:
        BadRequestError: one is not.
    """
    layers = layer_prefixes(model)
    for path, module in model.named_modules():
        if path.startswith(layers) and isinstance(module, nn.Linear | Conv1D) and type(module.weight) is nn.Parameter:
            raise BadRequestError(
                f"quantization {quantization} leaves {path} of model {source!r} dense, a {type(module).__name__}: use "
                "another quantization, or none"
            )
