"""Backbones for sequence classification: the frozen pretrained model, its task head, and its target modules."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from adapad_ray.assets import ASSETS, fetch, find_asset, require_hub
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError

Pooling = Literal["mean", "own"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_LONGEST_PATTERN = 500
LINEAR = "linear"
"""The name of `LinearModel`, which goes with tasks of vectors and has no weights to load."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, before anything is loaded."""

    path_or_name: str
    """A local folder with `config.json`, or a name on the Hub."""
    packaged: bool
    pooling: Pooling
    """The pooling this model is declared with: `mean` for sentence encoders, the model's own otherwise."""


@dataclass(frozen=True)
class Backbone:
    """A frozen model with a fresh task head; every parameter has `requires_grad=False`."""

    name: str
    """What the user asked for: a packaged name, a folder or a Hub name."""
    model: nn.Module
    """Takes `input_ids, attention_mask[, token_type_ids]` `[batch, tokens]`, or `inputs_embeds`; its output has
    `.logits`."""
    tokenizer: Any
    head_modules: tuple[str, ...]
    """Paths of the layers to train as the head: all behind the encoder, and all that no weights came for."""
    pooling: Pooling
    digest: str
    """sha256 over pooling, configuration and pretrained weights."""
    parameters: int
    """Parameters of the backbone, head apart."""

    @property
    def pad_token_id(self) -> int:
        """The token that fills batches up; 0, which nothing reads, where there is no tokenizer."""
        return 0 if self.tokenizer is None else int(self.tokenizer.pad_token_id)


class LinearModel(nn.Module):
    """One frozen linear layer of zeros: with adapters it is W = s · B A, the model of the linear theory (2605.10741).

    It has no head. Its one layer stands in a list, as repeated layers do, so that `all-linear` means it.
    """

    base_model_prefix = ""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig()
        self.layers = nn.ModuleList([nn.Linear(in_features, out_features, bias=False, dtype=dtype)])
        nn.init.zeros_(self.layers[0].weight)  # type: ignore[arg-type]

    def forward(self, inputs_embeds: torch.Tensor) -> SequenceClassifierOutput:
        """Return the outputs `[batch, d_out]` as `logits` for `inputs_embeds` `[batch, d_in]`."""
        x = inputs_embeds.to(next(self.parameters()).dtype)
        return SequenceClassifierOutput(logits=self.layers[0](x))


class MeanPooledClassifier(nn.Module):
    """Mean of the token states, then one linear layer: `logits = W · mean_t(h_t) + b` over non-padding tokens.

    The encoder stands under its own `base_model_prefix` (`bert` for BERT), so module paths are those of
    transformers' sequence classifier and an adapter exported from one fits the other.
    """

    config: Any
    base_model_prefix: str

    def __init__(self, encoder: transformers.PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.config = encoder.config
        self.config.num_labels = num_labels
        self.base_model_prefix = str(encoder.base_model_prefix)
        self.add_module(self.base_model_prefix, encoder)
        self.classifier = nn.Linear(self.config.hidden_size, num_labels, dtype=next(encoder.parameters()).dtype)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` for token ids `[batch, tokens]`, and the loss where labels are given."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= kwargs | {"return_dict": True}
        encoder = self.get_submodule(self.base_model_prefix)
        states = encoder(**{key: value for key, value in inputs.items() if value is not None}).last_hidden_state
        if attention_mask is None:
            pooled = states.mean(dim=1)
        else:
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        logits = self.classifier(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def list_models() -> dict[str, str]:
    """Return the packaged models: name to one line of description."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "model"}
    return packaged | {LINEAR: "one linear layer of zeros, as wide as the task: the model of the linear theory"}


def resolve_model(source: str) -> ModelSource:
    """Find a packaged model, a local folder or a Hub name.

    Raises:
        BadRequestError: the folder holds no model, or the name can be neither.
    """
    if asset := find_asset("model", source):
        folder = fetch(asset)
        return ModelSource(str(folder), packaged=True, pooling=_declared_pooling(folder))
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadRequestError(f"model folder {source!r} has no config.json: pass what save_pretrained wrote")
        return ModelSource(str(path.resolve()), packaged=False, pooling=_declared_pooling(path))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith("."):
        raise BadRequestError(f"model folder {source!r} does not exist: pass a folder, a Hub name or {_packaged()}")
    require_hub(f"model {source!r}")
    return ModelSource(source, packaged=False, pooling=_declared_pooling_on_hub(source))


def load_backbone(
    source: str, num_labels: int, *, pooling: str | None = None, dtype: str = "float32", seed: int = 0
) -> Backbone:
    """Load a pretrained model, frozen and in eval mode, with a head initialised from `seed`.

    Weights come from safetensors only and no code of a checkpoint is run. A classifier that the checkpoint
    brings is replaced, because its labels are not the task's. The global random state is left as it was.

    Args:
        source: a packaged name, a folder or a Hub name.
        num_labels: classes of the task, at least 2.
        pooling: `mean` or `own`; by default what the model is declared with.
        dtype: `float32`, `bfloat16`, `float16` or `float64`.
        seed: of the head's initialisation.

    Raises:
        BadRequestError: the model cannot be loaded as asked.
    """
    chosen_dtype = _dtype(dtype)
    found = resolve_model(source)
    chosen = _choose_pooling(found, pooling, num_labels)
    folder = Path(found.path_or_name)
    if folder.is_dir() and not _weight_files(folder):
        raise BadRequestError(
            f"model folder {source!r} has no model.safetensors: pickled weights are not loaded, "
            "convert them with save_pretrained"
        )
    loading: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    loading |= {"dtype": chosen_dtype, "output_loading_info": True}
    with _quiet_transformers(), _reading(source), torch.random.fork_rng():
        config = _read_config(found)
        if chosen == "mean":
            encoder, info = transformers.AutoModel.from_pretrained(
                found.path_or_name, config=config, **_without_pooler(config), **loading
            )
            model: Any = MeanPooledClassifier(encoder, num_labels)
            missing = {f"{model.base_model_prefix}.{key}" for key in info["missing_keys"]}
        else:
            config.num_labels = num_labels
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                found.path_or_name, config=config, ignore_mismatched_sizes=True, **loading
            )
            missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    tokenizer = load_tokenizer(source)
    model.config.pad_token_id = tokenizer.pad_token_id
    head = _head_modules(model, missing, source)
    model.requires_grad_(False).eval()
    initialise_head(model, head, seed)
    digest = hashlib.sha256(f"pooling {chosen}\n".encode())
    if folder.is_dir():
        _digest_files(digest, [folder / "config.json", *_weight_files(folder)])
    else:
        _digest_weights(digest, model, head)
    parameters = backbone_parameters(model, head)
    return Backbone(source, model, tokenizer, head, chosen, digest.hexdigest(), parameters)


def linear_backbone(in_features: int, out_features: int, *, dtype: str = "float32", device: str = "cpu") -> Backbone:
    """Make a `LinearModel`; it has neither tokenizer nor head.

    Raises:
        BadRequestError: the dtype is unknown.
    """
    with torch.device(device):
        model = LinearModel(in_features, out_features, _dtype(dtype)).requires_grad_(False).eval()
    digest = hashlib.sha256(f"{LINEAR} {in_features} {out_features}\n".encode()).hexdigest()
    return Backbone(LINEAR, model, None, (), "own", digest, backbone_parameters(model))


def load_tokenizer(source: str) -> Any:
    """Load a model's tokenizer; it can pad (with its end token where it has no padding token of its own).

    Raises:
        BadRequestError: there is none, or it has neither token.
    """
    found = resolve_model(source)
    if not _has_tokenizer(found):
        raise BadRequestError(f"model folder {source!r} has no tokenizer: write one there with its save_pretrained")
    with _quiet_transformers(), _reading(source):
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.path_or_name, trust_remote_code=False)
    _ensure_padding(tokenizer, source)
    return tokenizer


def sketch_tokenizer(source: str) -> tuple[Any, bool]:
    """A tokenizer that is good enough to plan with, and whether it is the model's own.

    Where a local folder has none, one that takes every word and every run of signs for one token.

    Raises:
        BadRequestError: there is one, and it cannot be loaded.
    """
    if _has_tokenizer(resolve_model(source)):
        return load_tokenizer(source), True
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"), False


def backbone_parameters(model: nn.Module, head_modules: Sequence[str] = ()) -> int:
    """Count the parameters of the base model, without those of `head_modules` that stand inside it.

    For a skeleton, whose head is what stands outside the base model, leave `head_modules` out.
    """
    base = _base_prefix(model)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(base) and name.rpartition(".")[0] not in head_modules
    )


def load_skeleton(source: str, num_labels: int, pooling: str | None = None, *, device: str = "meta") -> nn.Module:
    """Build the model that `load_backbone` would load, from its configuration alone.

    It has no weights on the meta device, and random ones on another.
    """
    found = resolve_model(source)
    chosen = _choose_pooling(found, pooling, num_labels)
    with _quiet_transformers(), _reading(source), torch.random.fork_rng(), torch.device(device):
        config = _read_config(found)
        if chosen == "mean":
            encoder = transformers.AutoModel.from_config(config, **_without_pooler(config))
            model: nn.Module = MeanPooledClassifier(encoder, num_labels)
        else:
            config.num_labels = num_labels
            model = transformers.AutoModelForSequenceClassification.from_config(config)
    if getattr(config, "pad_token_id", None) is None:  # decoders ask for it; its value changes neither shape nor time
        config.pad_token_id = 0
    return model.requires_grad_(False).eval()


def initialise_head(target: Backbone | nn.Module, head_modules: Sequence[str], generator_seed: int) -> None:
    """Initialise the head in place from a seed: weights N(0, `config.initializer_range`), biases 0, norms 1.

    Numbers are drawn on the CPU by a generator of their own, so they depend on neither device nor global state.
    """
    model: Any = target.model if isinstance(target, Backbone) else target
    spread = float(getattr(model.config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(generator_seed)
    with torch.no_grad():
        for path in head_modules:
            for name, parameter in model.get_submodule(path).named_parameters(recurse=False):
                if parameter.ndim > 1:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, spread, generator=generator))
                else:
                    parameter.fill_(1.0 if name == "weight" else 0.0)


def target_modules(model: nn.Module, spec: str | Sequence[str]) -> tuple[ModuleShape, ...]:
    """Resolve the modules that get an adapter, in the model's order.

    `all-linear` means every `nn.Linear` of the repeated layers. Another string is a regular expression that has to
    match a whole path; a list holds full paths or dotted suffixes (`query` is every path that ends in `.query`),
    as in PEFT. Embeddings, poolers and heads are never matched.

    Raises:
        BadRequestError: a name or pattern matches nothing, or is no valid pattern.
    """
    candidates = _adaptable_linears(model)
    if spec == "all-linear":
        stack = _layer_prefixes(model)
        chosen = {name for name in candidates if name.startswith(stack)}
        if not chosen:
            raise BadRequestError("target_modules all-linear finds no nn.Linear in repeated layers: list names instead")
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


def _attention_heads(model: Any, name: str, linear: nn.Linear) -> tuple[int, bool]:
    """Return how many heads share out a module, and whether they share its input; 1 head where there are none.

    Told by the names that transformers' models use. A module that computes several projections at once has none.
    """
    config = model.config.get_text_config()
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
    if len(pattern) > _LONGEST_PATTERN:
        raise BadRequestError(
            f"target_modules pattern has {len(pattern)} characters where {_LONGEST_PATTERN} are allowed: list names"
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadRequestError(f"target_modules {pattern!r} is not a regular expression: {error}") from error
    chosen = {path for path in candidates if compiled.fullmatch(path)}
    if not chosen:
        raise _nothing_matches(pattern, candidates)
    return chosen


def _nothing_matches(name: str, candidates: dict[str, nn.Linear]) -> BadRequestError:
    suffixes = _suffixes(candidates)
    nearest = difflib.get_close_matches(name, suffixes, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return BadRequestError(
        f"target_modules {name!r} matches no nn.Linear of the backbone (pooler and head are not adapted): "
        f"{hint}available are {', '.join(suffixes)}"
    )


def _suffixes(candidates: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in candidates))


def _base_prefix(model: nn.Module) -> str:
    """Return the dotted prefix of the base model inside its classifier, or '' where the model is its own base."""
    attribute = str(getattr(model, "base_model_prefix", ""))
    return f"{attribute}." if attribute and hasattr(model, attribute) else ""


def _adaptable_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every plain `nn.Linear` of the base model but its pooler, in the model's order."""
    base = _base_prefix(model)
    return {
        name: module
        for name, module in model.named_modules()
        # A subclass may use its weight without calling forward, and an adapter there would not act.
        if type(module) is nn.Linear
        and name.startswith(base)
        and not any(part == "lm_head" or "pooler" in part or "embed" in part for part in name.split("."))
    }


def _layer_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted prefixes of the base model's module lists: the repeated layers."""
    base = _base_prefix(model)
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(base)
    )


def _head_modules(model: nn.Module, missing: set[str], source: str) -> tuple[str, ...]:
    """Return the layers to train as the head, in the model's order."""
    base, layers = _base_prefix(model), _layer_prefixes(model)
    fresh = {key.rpartition(".")[0] for key in missing}
    broken = sorted(
        path for path in fresh if path.startswith(layers) or isinstance(model.get_submodule(path), nn.Embedding)
    )
    if broken:
        raise BadRequestError(
            f"the weights of model {source!r} are incomplete: {len(broken)} layers are missing, {broken[0]} first"
        )
    return tuple(
        path
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and (path in fresh or not path.startswith(base))
    )


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise BadRequestError(f"dtype {name!r} is unknown: use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _choose_pooling(found: ModelSource, pooling: str | None, num_labels: int) -> Pooling:
    if num_labels < 2:
        raise BadRequestError(f"num_labels is {num_labels}: a classification task has at least 2")
    if pooling is None:
        return found.pooling
    if pooling == "mean":
        return "mean"
    if pooling == "own":
        return "own"
    raise BadRequestError(f"pooling {pooling!r} is unknown: use mean or own")


def _read_config(found: ModelSource) -> Any:
    config: Any = transformers.AutoConfig.from_pretrained(found.path_or_name, trust_remote_code=False)
    config.use_cache = False  # a classifier reads every token once
    return config


def _without_pooler(config: Any) -> dict[str, bool]:
    """Return the keyword that keeps a pooler from being built, where the architecture has one."""
    if getattr(config, "is_encoder_decoder", False):
        raise BadRequestError(f"pooling mean needs one stack, which a {config.model_type} is not: use pooling own")
    classes = transformers.AutoModel._model_mapping[type(config)]  # type: ignore[attr-defined]
    architecture = classes[0] if isinstance(classes, tuple) else classes
    takes_pooler = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if takes_pooler else {}


def _has_tokenizer(found: ModelSource) -> bool:
    """Return whether there are files of a tokenizer: without them, some of transformers' classes come up empty."""
    folder = Path(found.path_or_name)
    patterns = ("tokenizer*", "vocab*", "*.model", "tekken.json")
    return not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in patterns)


def _ensure_padding(tokenizer: Any, source: str) -> None:
    """Give the tokenizer a padding token; the model's configuration must carry its id, to find the last token by it."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BadRequestError(
                f"the tokenizer of model {source!r} has neither a padding nor an end-of-text token: add a pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token


def _declared_pooling(folder: Path) -> Pooling:
    """Return `mean` for a folder that sentence-transformers wrote with mean pooling, else `own`."""
    if not (folder / "modules.json").is_file():
        return "own"
    return _pooling_of(folder / "1_Pooling" / "config.json")


def _declared_pooling_on_hub(name: str) -> Pooling:
    with _quiet_transformers(), _reading(name):
        marker = transformers.utils.cached_file(name, "modules.json", _raise_exceptions_for_missing_entries=False)
        if marker is None:
            return "own"
        settings = transformers.utils.cached_file(
            name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False
        )
    return "own" if settings is None else _pooling_of(Path(settings))


def _pooling_of(settings: Path) -> Pooling:
    try:
        mean = json.loads(settings.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens")
    except (OSError, ValueError, AttributeError):
        return "own"
    return "mean" if mean is True else "own"


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _digest_files(digest: Any, paths: Iterable[Path]) -> None:
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)


def _digest_weights(digest: Any, model: Any, head: Sequence[str]) -> None:
    digest.update(model.config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in head:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())


def _packaged() -> str:
    names = [asset.name for asset in ASSETS if asset.kind == "model"]
    return f"a packaged name ({', '.join(names)})"


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn transformers' complaints about a checkpoint into one sentence."""
    try:
        yield
    except BadRequestError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadRequestError(
            f"model {source!r} could not be loaded ({reason}): pass a folder, a Hub name or {_packaged()}"
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence loading bars and reports of transformers, and restore the user's settings."""
    verbosity = transformers.logging.get_verbosity()
    bars, hub_bars = (
        transformers.logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
