"""Selects the modules that get an adapter, by name, pattern or preset, and finds the heads that share them.

Paths are those of `model.named_modules()`. Only linear layers of the base model are adapted, and none of its
embeddings, poolers and heads; the output layer of a language model is, where a list names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.base import FrozenLinear
from adapad_ray.frozen_linear.dispatch import frozen_linear, is_linear, is_part_of_one_model, is_supported
from adapad_ray.frozen_linear.mixed import COPY
from adapad_ray.frozen_linear.quantized import logical_size
from adapad_ray.safe_regex import Matcher
from adapad_ray.spelling import closest
from adapad_ray.wording import counted

ALL_LINEAR = "all-linear"


class Layer(NamedTuple):
    """The linear modules of one repeated layer, as patterns of their paths inside it."""

    attention: str
    """Projections of query, key and value, and the output projection."""
    mlp: str
    """Feed-forward modules."""


_BERT = Layer(r"attention\.self\.(query|key|value)|attention\.output\.dense", r"(intermediate|output)\.dense")
_DEBERTA = Layer(r"attention\.self\.(query|key|value)_proj|attention\.output\.dense", r"(intermediate|output)\.dense")
_DISTILBERT = Layer(r"attention\.(q|k|v|out)_lin", r"ffn\.lin[12]")
_FALCON = Layer(r"self_attention\.(query_key_value|dense)", r"mlp\.dense_(h_to_4h|4h_to_h)")
_GPT2 = Layer(r"attn\.(c_attn|c_proj)", r"mlp\.(c_fc|c_proj)")
_LLAMA = Layer(r"self_attn\.[qkvo]_proj", r"mlp\.(gate|up|down)_proj")
_OPT = Layer(r"self_attn\.(q|k|v|out)_proj", r"fc[12]")
_SIGLIP = Layer(r"self_attn\.(q|k|v|out)_proj", r"mlp\.fc[12]")
_VIT = Layer(r"attention\.[qkvo]_proj", r"mlp\.fc[12]")

_OUTPUT_PROJECTIONS = ("attention.output.dense", "self_attention.dense", "attn.c_proj")
"""Ends of the paths of attention output projections whose last part alone is ambiguous: BERT's, Falcon's, GPT-2's."""

ARCHITECTURES: dict[str, Layer] = {
    "bert": _BERT,
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "deberta-v2": _DEBERTA,
    "distilbert": _DISTILBERT,
    "falcon": _FALCON,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": _OPT,
    "siglip_text_model": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _VIT,
}
"""Layers by transformers' `model_type`. A model of several stacks, such as PaliGemma, has one entry for each."""


def target_modules(model: nn.Module, spec: str | Sequence[str]) -> tuple[ModuleShape, ...]:
    """Return the modules that get an adapter, in the model's order.

    Args:
        model: the task model; it may be on the meta device.
        spec: `all-linear` for every linear layer of the repeated layers, without what `left_out` names; `attention` or
            `mlp` for that part of them, on the architectures of `ARCHITECTURES`; another string is a regular expression
            that must match a whole path; a list holds full paths or dotted suffixes (`query` for every path that ends
            in `.query`), as in PEFT, and it alone selects the output layer of a language model (`lm_head`).

    Raises:
        BadRequestError: a name or pattern matches nothing or is invalid, the architecture has no presets, or a selected
            module is of a class that cannot carry an adapter.
    """
    linears = _linears(model)
    if spec == ALL_LINEAR:
        layers = layer_prefixes(model)  # reads the whole model: once, not for every layer
        chosen = {
            path for path, module in linears.items() if path.startswith(layers) and not is_part_of_one_model(module)
        }
        if not chosen:
            raise BadRequestError("target_modules all-linear finds no linear layer in repeated layers: list names")
    elif isinstance(spec, str) and spec in Layer._fields:
        chosen = _match_preset(model, spec, linears)
    elif isinstance(spec, str):
        chosen = _match_pattern(model, spec, linears)
    else:
        chosen, linears = set(), linears | _output_layer(model, spec)
        for name in spec:
            matches = {path for path in linears if _is_named(path, name)}
            if not matches:
                raise _nothing_matches(model, name, linears)
            chosen |= matches
        if not chosen:
            raise BadRequestError(f"target_modules is an empty list: name some of {', '.join(_suffixes(linears))}")
    frozen = {path: frozen_linear(module, path) for path, module in linears.items() if path in chosen}
    return tuple(
        ModuleShape(path, linear.in_features, linear.out_features, *_attention_heads(model, path, linear))
        for path, linear in frozen.items()
    )


def left_out(model: nn.Module) -> str | None:
    """Return, as one sentence, which matrices of the repeated layers `all-linear` leaves out; None if it takes all.

    They are those of modules that are no linear layers: of experts that share a parameter, and of routers.
    """
    layers, sizes = layer_prefixes(model), dict[str, int]()
    inside: set[str] = set()
    for path, module in model.named_modules():
        if not path.startswith(layers) or is_supported(module) or isinstance(module, nn.Embedding | _ConvNd):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                prefix = max((layer for layer in layers if path.startswith(layer)), key=len)
                number, _, rest = f"{path}.{name}".removeprefix(prefix).partition(".")
                sizes[rest] = sizes.get(rest, 0) + logical_size(parameter)
                inside.add(prefix + number)
    if not sizes:
        return None
    whole = sum(logical_size(p) for name, p in model.named_parameters() if not name.endswith(COPY))
    return (
        f"target_modules all-linear leaves out {', '.join(sizes)} of {counted(len(inside), 'layer')}, "
        f"{sum(sizes.values()) / whole:.1%} of the model's parameters: they are no linear layers and stay frozen"
    )


def base_prefix(model: nn.Module) -> str:
    """Return the dotted prefix of the base model inside its task model, or '' if the model is its own base.

    transformers names it in `base_model_prefix`. Where no attribute has that name, as in SigLIP's image classifier, the
    base is the only pretrained model inside.
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


def _linears(model: nn.Module) -> dict[str, nn.Module]:
    """Return every linear layer of the base model outside pooler, embeddings and heads, in the model's order.

    Layers of unsupported classes are among them, so that selecting one is an error and not an omission.
    """
    base = base_prefix(model)
    return {
        path: module
        for path, module in model.named_modules()
        if path.startswith(base)
        and is_linear(module)
        and not any(part in ("head", "lm_head") or "pooler" in part or "embed" in part for part in path.split("."))
    }


def _output_layer(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the output layer of a language model and its path, where one of `names` is it.

    Raises:
        BadRequestError: it is tied to the input embedding.
    """
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    for path, module in model.named_modules():
        if module is not output or not any(_is_named(path, name) for name in names):
            continue
        if output.weight is cast(Any, model).get_input_embeddings().weight:
            raise BadRequestError(
                f"target_modules name {path}, whose weight is that of the input embedding too: an adapter merged into "
                "it would change both, choose target_modules without it"
            )
        return {path: module}
    return {}


def _match_preset(model: nn.Module, preset: str, linears: Mapping[str, nn.Module]) -> set[str]:
    """Return the modules of a preset; every stack of layers must be of an architecture in `ARCHITECTURES`."""
    chosen = set()
    for prefix in layer_prefixes(model):
        inside = {path: module for path, module in linears.items() if path.startswith(prefix)}
        if not inside:
            continue
        kind = str(getattr(_owner_config(model, prefix), "model_type", ""))
        if kind not in ARCHITECTURES:
            raise BadRequestError(
                f"target_modules {preset} is not defined for architecture {kind or 'without a name'!r} (defined for "
                f"{', '.join(ARCHITECTURES)}): use all-linear, or name some of {', '.join(_suffixes(inside))}"
            )
        pattern = re.compile(getattr(ARCHITECTURES[kind], preset))
        chosen |= {path for path in inside if pattern.fullmatch(path.removeprefix(prefix).partition(".")[2])}
    if not chosen:
        raise BadRequestError(f"target_modules {preset} finds no such module: list names instead")
    return chosen


def _owner_config(model: nn.Module, path: str) -> Any:
    """Return the configuration of the innermost part of the model around `path` that has attention heads.

    A model of several stacks has one configuration for each.
    """
    parts = path.rstrip(".").split(".")
    for end in range(len(parts), -1, -1):
        config = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        if hasattr(config, "num_attention_heads"):
            return config
    return None


def _attention_heads(model: nn.Module, path: str, linear: FrozenLinear) -> tuple[int, bool]:
    """Return the number of heads that share a module, and whether they share its input; 1 without heads.

    Found by the names that transformers' models use. A module that computes several projections at once counts as one
    without heads, because a head's rows are not contiguous there.
    """
    config = _owner_config(model, path)
    last = path.rpartition(".")[2]
    projects = re.fullmatch(r"(query|key|value|q|k|v)(_proj|_lin)?", last) is not None
    collects = last in ("o", "o_proj", "out_proj", "out_lin") or path.endswith(_OUTPUT_PROJECTIONS)
    heads = getattr(config, "num_attention_heads", None)
    if projects and last[0] in "kv":
        heads = getattr(config, "num_key_value_heads", None) or heads
    features = linear.in_features if collects else linear.out_features
    if not (projects or collects) or not isinstance(heads, int) or features % heads:
        return 1, False
    return heads, collects


def _match_pattern(model: nn.Module, pattern: str, linears: Mapping[str, nn.Module]) -> set[str]:
    matcher = Matcher()
    chosen = {path for path in linears if matcher.fullmatch(pattern, path, "target_modules")}
    if not chosen:
        raise _nothing_matches(model, pattern, linears)
    return chosen


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _nothing_matches(model: nn.Module, name: str, linears: Mapping[str, nn.Module]) -> BadRequestError:
    for path, parameter in model.named_parameters():
        owner_path = path.rpartition(".")[0]
        owner = model.get_submodule(owner_path)
        if parameter.ndim > 1 and not is_supported(owner) and (_is_named(path, name) or _is_named(owner_path, name)):
            return BadRequestError(
                f"target_modules {name!r} names {owner_path} of class {type(owner).__name__}, which is no linear layer "
                "and cannot carry an adapter: choose target_modules without it"
            )
    suffixes = _suffixes(linears)
    near = closest(name, [*suffixes, ALL_LINEAR, *Layer._fields])
    hint = f"did you mean {near!r}? " if near else ""
    return BadRequestError(
        f"target_modules {name!r} matches no linear layer of the backbone (pooler and head are not adapted): "
        f"{hint}available are {', '.join(suffixes)}, and the presets all-linear, attention and mlp"
    )


def _suffixes(linears: Mapping[str, nn.Module]) -> list[str]:
    """Return the distinct last parts of the paths of modules that can carry an adapter."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path, module in linears.items() if is_supported(module)))
