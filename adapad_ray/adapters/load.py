"""Reads an untrusted PEFT LoRA adapter and rejects it if it is damaged or more than a plain B A.

PEFT ignores tensors of modules that are not targeted, initialises missing ones at random and accepts NaN; here each of
these is an error. Only JSON and safetensors files are opened, and the base model is not needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapad_ray.adapters.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_regex import Matcher

LARGEST_CONFIG = 10_000_000
"""Largest `adapter_config.json` that is read, in bytes."""
LARGEST_WEIGHTS = 16 * 2**30
"""Largest weights file that is read, in bytes, because all of it is held in memory. A project default: a LoRA of rank
256 on a 70B model has about 7 GB."""

_LARGEST_UPDATE = 1e30
"""Largest bound on an entry of scale · B A. Above it, squares of singular values would overflow."""
_LONGEST_NAME = 1000
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")

_VARIANTS = {
    "use_dora": "DoRA, whose update is not a plain B A",
    "lora_bias": "a bias beside B",
    "use_qalora": "QALoRA, whose A works on pooled inputs",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA, which changes the base weights",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
    "megatron_config": "Megatron layers",
}
"""Setting → its meaning, for settings that add something to B A or change how it acts."""

_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
"""Settings that do not change what a finished adapter computes."""

_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base weights as they are."""


class AdapterConfig(BaseModel):
    """`adapter_config.json` of a plain LoRA: the settings that B A depends on; the others are in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    alpha_pattern: dict[str, float] = {}
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True


@dataclass(frozen=True)
class LoadedAdapter:
    """A plain LoRA as read from its files."""

    config: AdapterConfig
    factors: dict[str, tuple[Tensor, Tensor]]
    """Module → `(A [rank, d_in], B [d_out, rank])` as stored, the scale not applied."""
    scales: dict[str, float]
    """Module → alpha / rank, or alpha / √rank for rsLoRA."""
    saved: dict[str, Tensor]
    """Weights of `modules_to_save`, by their full path in the model."""

    def folded(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors in float64, the scale folded into B."""
        return {name: (a.double(), b.double() * self.scales[name]) for name, (a, b) in self.factors.items()}

    @property
    def shapes(self) -> tuple[ModuleShape, ...]:
        """The adapted modules."""
        return tuple(ModuleShape(name, a.shape[1], b.shape[0]) for name, (a, b) in self.factors.items())


def load_adapter(folder: Path) -> LoadedAdapter:
    """Read and validate the adapter in `folder`.

    Raises:
        BadRequestError: a file is missing or damaged, or the adapter is more than a plain LoRA on linear layers.
    """
    if not folder.is_dir():
        raise BadRequestError(f"adapter {folder} is not a folder: pass the one that holds {ADAPTER_CONFIG}")
    config = _read_config(folder / ADAPTER_CONFIG)
    tensors = _read_tensors(folder)
    factors, rest = _pair_factors(tensors)
    saved = {name: tensor for name, tensor in rest.items() if _is_saved(name, config.modules_to_save or [])}
    stray = sorted(rest.keys() - saved.keys())
    if stray:
        raise BadRequestError(
            f"{ADAPTER_WEIGHTS} holds {stray[0]}, which is neither a LoRA factor of a linear layer nor part of "
            f"modules_to_save ({', '.join(config.modules_to_save or []) or 'none'}): only these two can be kept"
        )
    if config.modules_to_save and not saved:
        raise BadRequestError(
            f"{ADAPTER_WEIGHTS} holds no weight of modules_to_save ({', '.join(config.modules_to_save)}): PEFT would "
            "load the adapter with a random head"
        )
    matcher = _Matcher()
    _check_targets(config, factors, matcher)
    scales = _scales(config, factors, matcher)
    for name, (a, b) in factors.items():
        size = abs(scales[name]) * float(a.abs().max()) * float(b.abs().max())
        if not size < _LARGEST_UPDATE:
            raise BadRequestError(
                f"the update of module {name} may reach {size:.0e}, above the limit of {_LARGEST_UPDATE:.0e}: the "
                "factors or the scale are damaged"
            )
    return LoadedAdapter(config, factors, scales, saved)


def _read_config(path: Path) -> AdapterConfig:
    if not path.is_file():
        raise BadRequestError(f"{path.parent} has no {ADAPTER_CONFIG}: it is not an adapter in the PEFT format")
    if path.stat().st_size > LARGEST_CONFIG:
        raise BadRequestError(
            f"{path} has {path.stat().st_size:,} bytes, more than the {LARGEST_CONFIG:,} that are read"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequestError(f"{path} must hold one JSON object, not a {type(content).__name__}")
    if content.get("peft_type", "LORA") != "LORA":
        raise BadRequestError(f"{path} describes a {content['peft_type']!r} adapter: only peft_type LORA can be read")
    # Some tools write null for settings left at their default.
    content = {key: value for key, value in content.items() if value is not None}
    try:
        config = AdapterConfig.model_validate({"peft_type": "LORA", **content})
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"] if part not in ("bool", "str", "list[str]"))
        value = "" if problem["type"] == "missing" else f" is {repr(problem['input'])[:100]}"
        raise BadRequestError(f"{path}: {key}{value}: {problem['msg'].lower()}") from error
    _check_plain(config)
    return config


def _check_plain(config: AdapterConfig) -> None:
    """Reject settings that make the adapter more than W₀ + scale · B A."""
    extra = config.model_extra or {}
    for key, meaning in _VARIANTS.items():
        if extra.get(key):
            raise BadRequestError(f"the adapter uses {meaning} ({key}): only plain LoRA can be read")
    if config.bias != "none":
        raise BadRequestError(f"the adapter trains biases of the base model (bias is {config.bias!r}), not only B A")
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise BadRequestError(
            f"init_lora_weights is {config.init_lora_weights!r}, which changes the base weights too: convert the "
            "adapter to plain LoRA when you save it (path_initial_model_for_weight_conversion)"
        )
    for key in sorted(extra.keys() - _VARIANTS.keys() - _HARMLESS):
        if extra[key]:
            raise BadRequestError(
                f"the adapter's config sets {key!r}, which is unknown: remove it from {ADAPTER_CONFIG} if it does not "
                "change what the adapter computes"
            )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors by their names without PEFT's prefix."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        if pickled:
            raise BadRequestError(
                f"{folder} holds pickled weights ({pickled[0]}), which can run code and are not opened: if you trust "
                f"them, save the adapter as {ADAPTER_WEIGHTS}"
            )
        raise BadRequestError(f"{folder} has no {ADAPTER_WEIGHTS}: its weights are missing")
    if path.stat().st_size > LARGEST_WEIGHTS:
        raise BadRequestError(
            f"{path} has {path.stat().st_size:,} bytes, more than the {LARGEST_WEIGHTS:,} that are read"
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadRequestError(f"{path} is damaged or not a safetensors file: {error}") from error
    tensors = {}
    for key, tensor in stored.items():
        name = key.removeprefix(PREFIX)
        if name == key or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise BadRequestError(
                f"{path} holds {key[:100]!r}: names must be {PREFIX}<module path>.<weight>, as PEFT's are"
            )
        if not tensor.is_floating_point():
            raise BadRequestError(f"{path}: {name} is {tensor.dtype}, not floating point")
        if not tensor.isfinite().all():
            raise BadRequestError(f"{path}: {name} holds a value that is not finite (NaN or infinite)")
        tensors[name] = tensor
    return tensors


def _pair_factors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return `(A, B)` per module in the file's order, and the tensors that are not factors."""
    halves: dict[str, dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is not None:
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
        elif ".lora_embedding_" in name:
            raise BadRequestError(f"{name}: LoRA on an embedding is not supported, only on linear layers")
        elif ".lora_magnitude_vector" in name:
            raise BadRequestError(f"{name}: the adapter is a DoRA, whose update is not a plain B A")
        else:
            rest[name] = tensor
    if not halves:
        raise BadRequestError(f"{ADAPTER_WEIGHTS} holds no LoRA factor (…lora_A.weight and …lora_B.weight)")
    factors = {}
    for module, pair in halves.items():
        if pair.keys() != {"A", "B"}:
            present = next(iter(pair))
            raise BadRequestError(f"module {module} has lora_{present} but no lora_{'B' if present == 'A' else 'A'}")
        a, b = pair["A"], pair["B"]
        if a.ndim > 2 or b.ndim > 2:
            raise BadRequestError(f"module {module} is a convolution: LoRA is supported on linear layers only")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
            raise BadRequestError(
                f"module {module} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}: they must be (rank, inputs) "
                "and (outputs, rank)"
            )
        factors[module] = (a, b)
    return factors, rest


def _is_saved(name: str, modules_to_save: Iterable[str]) -> bool:
    """Whether a tensor belongs to `modules_to_save`; PEFT compares the ends of module paths as text."""
    parts = name.split(".")
    paths = [".".join(parts[:n]) for n in range(1, len(parts))]
    return any(path.endswith(module) for module in modules_to_save if module for path in paths)


class _Matcher(Matcher):
    """PEFT's rules for matching module names."""

    def key(self, patterns: Mapping[str, float], name: str, where: str) -> list[str]:
        """Return the keys of `rank_pattern` or `alpha_pattern` that match a module."""
        return [key for key in patterns if self.fullmatch(rf"(.*\.)?({key})", name, where)]

    def selects(self, targets: list[str] | str, name: str, where: str) -> list[str]:
        """Return the entries of `target_modules` or `exclude_modules` that select a module."""
        if isinstance(targets, str):
            return [targets] if targets == "all-linear" or self.fullmatch(targets, name, where) else []
        return [target for target in targets if name == target or name.endswith(f".{target}")]


def _check_targets(config: AdapterConfig, modules: Iterable[str], matcher: _Matcher) -> None:
    """Check that the config selects the modules that the file holds, as far as names alone can tell."""
    unused = set(config.target_modules) if isinstance(config.target_modules, list) else set()
    for name in modules:
        if config.target_modules is not None:
            selecting = matcher.selects(config.target_modules, name, "target_modules")
            if not selecting:
                raise BadRequestError(
                    f"{ADAPTER_WEIGHTS} holds module {name}, which target_modules does not select: PEFT would ignore it"
                )
            unused -= set(selecting)
        if config.exclude_modules and matcher.selects(config.exclude_modules, name, "exclude_modules"):
            raise BadRequestError(f"{ADAPTER_WEIGHTS} holds module {name}, which exclude_modules excludes")
    if unused:
        raise BadRequestError(
            f"target_modules names {min(unused)!r}, but {ADAPTER_WEIGHTS} holds no such module: its weights are missing"
        )


def _scales(config: AdapterConfig, factors: Mapping[str, tuple[Tensor, Tensor]], matcher: _Matcher) -> dict[str, float]:
    """Return the scale of every module; ranks in the config must be those of the tensors."""
    scales = {}
    unused = {"rank_pattern": set(config.rank_pattern), "alpha_pattern": set(config.alpha_pattern)}

    def value(where: str, patterns: Mapping[str, float], name: str, default: float) -> float:
        keys = matcher.key(patterns, name, where)
        unused[where] -= set(keys)
        if len({patterns[key] for key in keys}) > 1:
            raise BadRequestError(
                f"module {name} matches {keys[0]!r} and {keys[1]!r} of {where} with different values, so its "
                "value is ambiguous"
            )
        return patterns[keys[0]] if keys else default

    for name, (a, _) in factors.items():
        rank = value("rank_pattern", config.rank_pattern, name, config.r)
        alpha = value("alpha_pattern", config.alpha_pattern, name, config.lora_alpha)
        if rank != a.shape[0]:
            raise BadRequestError(f"module {name} has rank {a.shape[0]} in its tensors but {rank:g} in the config")
        scales[name] = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    for where, keys in unused.items():
        if keys:
            raise BadRequestError(f"{where} has {min(keys)[:100]!r}, which matches no module of the adapter")
    return scales
