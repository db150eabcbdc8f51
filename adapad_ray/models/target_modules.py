"""Which modules of a backbone get an adapter: names, patterns and presets, and what is known of each architecture.

Paths are those of `model.named_modules()`. Nothing outside the base model is ever adapted, and of the base model
neither embeddings nor poolers nor heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_regex import Matcher
from adapad_ray.validation import closest

ALL_LINEAR = "all-linear"


class Layer(NamedTuple):
    """The linear modules of one repeated layer, as patterns of their paths inside it."""

    attention: str
    """Projections of query, key and value, and the one that brings the heads together."""
    mlp: str
    """Feed-forward modules."""


_BERT = Layer(r"attention\.self\.(query|key|value)|attention\.output\.dense", r"(intermediate|output)\.dense")
_DEBERTA = Layer(r"attention\.self\.(query|key|value)_proj|attention\.output\.dense", r"(intermediate|output)\.dense")
_DISTILBERT = Layer(r"attention\.(q|k|v|out)_lin", r"ffn\.lin[12]")
_LLAMA = Layer(r"self_attn\.[qkvo]_proj", r"mlp\.(gate|up|down)_proj")
_OPT = Layer(r"self_attn\.(q|k|v|out)_proj", r"fc[12]")
_SIGLIP = Layer(r"self_attn\.(q|k|v|out)_proj", r"mlp\.fc[12]")
_VIT = Layer(r"attention\.[qkvo]_proj", r"mlp\.fc[12]")

ARCHITECTURES: dict[str, Layer] = {
    "bert": _BERT,
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": _OPT,
    "siglip_text_model": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _VIT,
}
"""Layers by transformers' `model_type`. A model of several stacks, as PaliGemma, has those of each of them."""


def target_modules(model: nn.Module, spec: str | Sequence[str]) -> tuple[ModuleShape, ...]:
    """Resolve the modules that get an adapter, in the model's order.

    `all-linear` means every `nn.Linear` of the repeated layers; `attention` and `mlp` mean those parts of them on the
    architectures of `ARCHITECTURES`. Another string is a regular expression that has to match a whole path; a list
    holds full paths or dotted suffixes (`query` is every path that ends in `.query`), as in PEFT. Embeddings, poolers
    and heads are never matched.

    Raises:
        BadRequestError: a name or pattern matches nothing or is no valid pattern, or the preset does not know the
            architecture.
    """
    candidates = _adaptable_linears(model)
    if spec == ALL_LINEAR:
        chosen = {name for name in candidates if name.startswith(layer_prefixes(model))}
        if not chosen:
            raise BadRequestError("target_modules all-linear finds no nn.Linear in repeated layers: list names instead")
    elif isinstance(spec, str) and spec in Layer._fields:
        chosen = _match_preset(model, spec, candidates)
    elif isinstance(spec, str):
        chosen = _match_pattern(spec, candidates)
    else:
        chosen = set()
        for name in spec:
            matches = {path for path in candidates if path == name or path.endswith(f".{name}")}
            if not matches:
                raise _nothing_matches(name, candidates)
            chosen |= matches
        if not chosen:
            raise BadRequestError(f"target_modules is an empty list: name some of {', '.join(_suffixes(candidates))}")
    return tuple(
        ModuleShape(name, linear.in_features, linear.out_features, *_attention_heads(model, name, linear))
        for name, linear in candidates.items()
        if name in chosen
    )


def base_prefix(model: nn.Module) -> str:
    """Return the dotted prefix of the base model inside its task model, or '' where the model is its own base.

    transformers names it in `base_model_prefix`; where no attribute has that name, as in SigLIP's image classifier, it
    is the only pretrained model inside.
    """
    attribute = str(getattr(model, "base_model_prefix", ""))
    if attribute and hasattr(model, attribute):
        return f"{attribute}."
    inside = [name for name, child in model.named_children() if isinstance(child, PreTrainedModel)]
    return f"{inside[0]}." if len(inside) == 1 else ""


def layer_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted prefixes of the base model's module lists: the repeated layers."""
    base = base_prefix(model)
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(base)
    )


def _adaptable_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every plain `nn.Linear` of the base model but its pooler and heads, in the model's order."""
    base = base_prefix(model)
    return {
        name: module
        for name, module in model.named_modules()
        # A subclass may use its weight without calling forward, and an adapter there would not act.
        if type(module) is nn.Linear
        and name.startswith(base)
        and not any(part in ("head", "lm_head") or "pooler" in part or "embed" in part for part in name.split("."))
    }


def _match_preset(model: nn.Module, preset: str, candidates: Iterable[str]) -> set[str]:
    """Return the modules of a preset; every stack of layers has to be of a known architecture."""
    chosen = set()
    for prefix in layer_prefixes(model):
        linears = [path for path in candidates if path.startswith(prefix)]
        if not linears:
            continue
        kind = str(getattr(_owner_config(model, prefix), "model_type", ""))
        if kind not in ARCHITECTURES:
            raise BadRequestError(
                f"target_modules {preset} does not know the layers of architecture {kind or 'without a name'!r} (known "
                f"are {', '.join(ARCHITECTURES)}): use all-linear, or name some of {', '.join(_suffixes(linears))}"
            )
        pattern = re.compile(getattr(ARCHITECTURES[kind], preset))
        chosen |= {path for path in linears if pattern.fullmatch(path.removeprefix(prefix).partition(".")[2])}
    if not chosen:
        raise BadRequestError(f"target_modules {preset} finds no such module: list names instead")
    return chosen


def _owner_config(model: nn.Module, path: str) -> Any:
    """Return the configuration of the innermost part of the model around `path` that has attention heads.

    A model of several stacks has one configuration for each: an image's tower has heads of its own.
    """
    parts = path.rstrip(".").split(".")
    for end in range(len(parts), -1, -1):
        config = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if hasattr(config, "num_attention_heads"):
            return config
    return None


def _attention_heads(model: nn.Module, name: str, linear: nn.Linear) -> tuple[int, bool]:
    """Return how many heads share out a module, and whether they share its input; 1 head where there are none.

    Told by the names that transformers' models use. A module that computes several projections at once has none.
    """
    config = _owner_config(model, name)
    last = name.rpartition(".")[2]
    projects = re.fullmatch(r"(query|key|value|q|k|v)(_proj|_lin)?", last) is not None
    collects = last in ("o", "o_proj", "out_proj", "out_lin") or name.endswith("attention.output.dense")
    heads = getattr(config, "num_attention_heads", None)
    if projects and last[0] in "kv":
        heads = getattr(config, "num_key_value_heads", None) or heads
    features = linear.in_features if collects else linear.out_features
    if not (projects or collects) or not isinstance(heads, int) or features % heads:
        return 1, False
    return heads, collects


def _match_pattern(pattern: str, candidates: dict[str, nn.Linear]) -> set[str]:
    matcher = Matcher()
    chosen = {path for path in candidates if matcher.fullmatch(pattern, path, "target_modules")}
    if not chosen:
        raise _nothing_matches(pattern, candidates)
    return chosen


def _nothing_matches(name: str, candidates: dict[str, nn.Linear]) -> BadRequestError:
    suffixes = _suffixes(candidates)
    near = closest(name, [*suffixes, ALL_LINEAR, *Layer._fields])
    hint = f"did you mean {near!r}? " if near else ""
    return BadRequestError(
        f"target_modules {name!r} matches no nn.Linear of the backbone (pooler and head are not adapted): "
        f"{hint}available are {', '.join(suffixes)}, and the presets all-linear, attention and mlp"
    )


def _suffixes(candidates: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in candidates))
