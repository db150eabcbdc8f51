"""Reads the untrusted `adapter_config.json` of a plain LoRA, and matches module names by PEFT's rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapad_ray.adapters.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_json import read_object
from adapad_ray.safe_regex import Matcher

LARGEST_CONFIG = 10_000_000
"""Largest `adapter_config.json` that is read, in bytes."""
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of module paths that torch.compile, activation checkpointing and FSDP put in."""

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
    "loftq_config", "lora_dropout", "lora_dtype", "lora_ga_config", "lorap_emb_lr", "lorap_lr_ratio", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
"""Settings that do not change what a finished adapter computes; ms-swift adds some for its optimizer."""

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
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True


def read_config(path: Path) -> AdapterConfig:
    """Read and validate the configuration.

    Raises:
        BadRequestError: the file is missing or damaged, or the adapter is more than W₀ + scale · B A.
    """
    if not path.is_file():
        inner = sorted(str(config.parent) for config in path.parent.glob(f"*/{ADAPTER_CONFIG}"))
        remedy = f"pass {inner[0]}, which has one" if inner else "it is not an adapter in the PEFT format"
        raise BadRequestError(f"{path.parent} has no {ADAPTER_CONFIG}: {remedy}")
    content = read_object(path, str(path), LARGEST_CONFIG)
    if content.get("peft_type", "LORA") != "LORA":
        raise BadRequestError(f"{path} describes a {content['peft_type']!r} adapter: only peft_type LORA can be read")
    # Some tools write null for settings left at their default.
    content = {key: _unwrapped_names(value) for key, value in content.items() if value is not None}
    try:
        config = AdapterConfig.model_validate({"peft_type": "LORA", **content})
    except ValidationError as error:
        problem = error.errors()[0]
        forms = ("bool", "str", "int", "list[str]", "list[int]")
        key = ".".join(str(part) for part in problem["loc"] if part not in forms)
        value = "" if problem["type"] == "missing" else f" is {repr(problem['input'])[:100]}"
        raise BadRequestError(f"{path}: {key}{value}: {problem['msg'].lower()}") from error
    _check_plain(config)
    return config


def _unwrapped_names(value: Any) -> Any:
    """A setting of module names or patterns, without the parts that wrappers put in."""
    if isinstance(value, str):
        for part in WRAPPERS:
            value = value.replace(f"{part}.", "").replace(rf"{part}\.", "")
        return value
    if isinstance(value, list):
        return [_unwrapped_names(entry) for entry in value]
    if isinstance(value, dict):
        return {_unwrapped_names(key): entry for key, entry in value.items()}
    return value


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


class NameMatcher(Matcher):
    """PEFT's rules for matching module names."""

    def key(self, patterns: Mapping[str, float], name: str, where: str) -> str | None:
        """Return the first key of `rank_pattern` or `alpha_pattern` that matches a module, in the file's order."""
        return next((key for key in patterns if self.fullmatch(rf"(.*\.)?({key})", name, where)), None)

    def selecting(self, config: AdapterConfig, name: str) -> list[str]:
        """Return the entries of `target_modules` that select a module."""
        targets = config.target_modules or []
        if isinstance(targets, str):
            return [targets] if targets == "all-linear" or self.fullmatch(targets, name, "target_modules") else []
        ends = [target for target in targets if name.endswith(f".{target}")]
        return [target for target in targets if name == target] or (ends if self._in_layers(config, name) else [])

    def excludes(self, config: AdapterConfig, name: str) -> bool:
        """Whether a module is excluded, or is part of one that is saved whole."""
        excluded = config.exclude_modules or []
        if isinstance(excluded, str):
            return self.fullmatch(excluded, name, "exclude_modules")
        if any(name == entry or name.endswith(f".{entry}") for entry in excluded):
            return True
        saved = config.modules_to_save or []
        return any(self.fullmatch(rf"(.*\.)?{entry}(\..*)?", name, "modules_to_save") for entry in saved)

    def _in_layers(self, config: AdapterConfig, name: str) -> bool:
        """Whether `layers_to_transform` leaves a module in, by the first number in its path."""
        layers = config.layers_to_transform
        if layers is None or layers == []:
            return True
        pattern = config.layers_pattern or []
        stacks = [pattern] if isinstance(pattern, str) else pattern
        parts = name.split(".")
        for i in range(1, len(parts) - 1):
            stack = ".".join(parts[:i])
            inside = not stacks or any(self.fullmatch(rf"(.*\.)?{entry}", stack, "layers_pattern") for entry in stacks)
            # Without a pattern, PEFT looks for a dot before the stack's name.
            if inside and parts[i].isdecimal() and (stacks or i > 1):
                return int(parts[i]) in ([layers] if isinstance(layers, int) else layers)
        return False


def check_targets(config: AdapterConfig, modules: Iterable[str], matcher: NameMatcher, notes: list[str]) -> None:
    """Check that the config selects the modules that the file holds, as far as names alone can tell.

    What it selects beside them is added to `notes`.

    Raises:
        BadRequestError: PEFT would ignore a module.
    """
    unused = set(config.target_modules) if isinstance(config.target_modules, list) else set()
    for name in modules:
        if config.target_modules is not None:
            selecting = matcher.selecting(config, name)
            if not selecting:
                raise BadRequestError(
                    f"{ADAPTER_WEIGHTS} holds module {name}, which target_modules and layers_to_transform do not "
                    "select: PEFT would ignore it"
                )
            unused -= set(selecting)
        if matcher.excludes(config, name):
            raise BadRequestError(
                f"{ADAPTER_WEIGHTS} holds module {name}, which exclude_modules or modules_to_save excludes: PEFT would "
                "ignore it"
            )
    unused = {target for target in unused if not matcher.excludes(config, target)}
    if unused:
        notes.append(
            f"target_modules names {', '.join(sorted(unused)[:5])}{' and more' if len(unused) > 5 else ''}, of which "
            f"{ADAPTER_WEIGHTS} holds no weights: nothing is adapted there"
        )


def scales(config: AdapterConfig, ranks: Mapping[str, int], matcher: NameMatcher) -> dict[str, float]:
    """Return the scale of every module.

    Args:
        ranks: module → rank of its tensors.

    Raises:
        BadRequestError: the config gives a module another rank.
    """
    found = {}
    for name, stored in ranks.items():
        rank_key = matcher.key(config.rank_pattern, name, "rank_pattern")
        alpha_key = matcher.key(config.alpha_pattern, name, "alpha_pattern")
        rank = config.r if rank_key is None else config.rank_pattern[rank_key]
        alpha = config.lora_alpha if alpha_key is None else config.alpha_pattern[alpha_key]
        if rank != stored:
            raise BadRequestError(f"module {name} has rank {stored} in its tensors but {rank:g} in the config")
        found[name] = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return found
