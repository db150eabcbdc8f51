"""Backbones: the frozen pretrained model of any type of task, and its task head."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from adapad_ray.assets import ASSETS, fetch, find_asset, require_hub
from adapad_ray.errors import BadRequestError
from adapad_ray.models.built_models import TINY_VIT, TINY_VIT_DESCRIPTION, converted, tiny_vit
from adapad_ray.models.configs import find_config, list_configs
from adapad_ray.models.target_modules import base_prefix, layer_prefixes
from adapad_ray.models.task_models import ImagePrefixClassifier, LinearModel, MeanPooledClassifier

Pooling = Literal["mean", "own"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SEQUENCES, CAUSAL, IMAGES = (
    f"AutoModelFor{kind}" for kind in ("SequenceClassification", "CausalLM", "ImageClassification")
)
AUTO_CLASSES: dict[str, Any] = {
    name: getattr(transformers, name) for name in (SEQUENCES, "AutoModelForQuestionAnswering", CAUSAL, IMAGES)
}
"""The classes that models are loaded with, by name. A causal language model has no head to train."""
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
    """Takes `input_ids, attention_mask[, token_type_ids]` `[batch, tokens]`, `pixel_values`, or `inputs_embeds`; its
    output has `.logits`, or `.start_logits` and `.end_logits` where it answers by spans."""
    tokenizer: Any
    """None where the model reads no texts."""
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


def list_models() -> dict[str, str]:
    """Return the packaged models, and those of the Hub that can be planned without it: name to one line."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "model"}
    packaged |= {TINY_VIT: TINY_VIT_DESCRIPTION}
    packaged |= {LINEAR: "one linear layer of zeros, as wide as the task: the model of the linear theory"}
    return packaged | dict.fromkeys(list_configs(), "from the Hub; its sizes are kept for `adapad plan`")


def resolve_model(source: str) -> ModelSource:
    """Find a packaged model, a local folder or a Hub name.

    Raises:
        BadRequestError: the folder holds no model, or the name can be neither.
    """
    if source == TINY_VIT:
        with _quiet_transformers():
            return ModelSource(str(tiny_vit()), packaged=True, pooling="own")
    if asset := find_asset("model", source):
        with _quiet_transformers():
            folder = converted(fetch(asset))
        return ModelSource(str(folder), packaged=True, pooling=_declared_pooling(folder))
    path = Path(source).expanduser()
    if os.path.isdir(path):  # False, not an error, where no file could have such a name
        if not (path / "config.json").is_file():
            raise BadRequestError(f"model folder {source!r} has no config.json: pass what save_pretrained wrote")
        return ModelSource(str(path.resolve()), packaged=False, pooling=_declared_pooling(path))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith("."):
        raise BadRequestError(f"model folder {source!r} does not exist: pass a folder, a Hub name or {_packaged()}")
    require_hub(f"model {source!r}")
    return ModelSource(source, packaged=False, pooling=_declared_pooling_on_hub(source))


def keeps_sizes(source: str) -> bool:
    """Whether a model is sketched from the sizes that this package keeps."""
    return Path(resolve_sketch(source).path_or_name) == find_config(source)


def resolve_sketch(source: str) -> ModelSource:
    """Find a model to plan with: the sizes that this package keeps, where the Hub's configuration is out of reach.

    Raises:
        BadRequestError: as `resolve_model`, for a model whose sizes are not kept.
    """
    kept = find_config(source)
    if kept is None:
        return resolve_model(source)
    try:
        found = resolve_model(source)
        with _quiet_transformers(), _reading(source):
            _read_config(found)
    except BadRequestError:
        return ModelSource(str(kept), packaged=True, pooling="own")
    return found


def load_backbone(
    source: str,
    num_labels: int,
    *,
    auto_class: str = SEQUENCES,
    pooling: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Backbone:
    """Load a pretrained model, frozen and in eval mode, with a head initialised from `seed`.

    Weights come from safetensors only and no code of a checkpoint is run. A classifier that the checkpoint
    brings is replaced, because its labels are not the task's. The global random state is left as it was.

    Args:
        source: a packaged name, a folder or a Hub name.
        num_labels: outputs of the head: classes, 1 for a number, 2 for start and end of a span.
        auto_class: which of `AUTO_CLASSES`.
        pooling: `mean` or `own`; by default what the model is declared with. For sequences only.
        dtype: `float32`, `bfloat16`, `float16` or `float64`.
        seed: of the head's initialisation.

    Raises:
        BadRequestError: the model cannot be loaded as asked.
    """
    chosen_dtype = _dtype(dtype)
    found = resolve_model(source)
    chosen = _choose_pooling(found, pooling, num_labels, auto_class)
    folder = Path(found.path_or_name)
    if os.path.isdir(folder) and not _weight_files(folder):
        raise BadRequestError(
            f"model folder {source!r} has no model.safetensors: pickled weights are not loaded, "
            "convert them with save_pretrained"
        )
    loading: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    loading |= {"dtype": chosen_dtype, "output_loading_info": True}
    with _quiet_transformers(), _reading(source), torch.random.fork_rng():
        config = _read_config(found)
        if (classifier := _own_classifier(config, chosen, auto_class)) is not None:
            encoder, info = transformers.AutoModel.from_pretrained(
                found.path_or_name, config=config, **_without_pooler(config), **loading
            )
            model: Any = classifier(encoder, num_labels)
            missing = {f"{model.base_model_prefix}.{key}" for key in info["missing_keys"]}
        else:
            if auto_class != CAUSAL:
                config.num_labels = num_labels
            model, info = AUTO_CLASSES[auto_class].from_pretrained(
                found.path_or_name, config=config, ignore_mismatched_sizes=auto_class != CAUSAL, **loading
            )
            missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    tokenizer = None
    if auto_class != IMAGES:
        tokenizer = load_tokenizer(source)
        for part in (model.config, model.config.get_text_config()):
            part.pad_token_id = tokenizer.pad_token_id
    head = _head_modules(model, missing, source, auto_class)
    model.requires_grad_(False).eval()
    initialise_head(model, head, seed)
    digest = hashlib.sha256(f"pooling {chosen}\n".encode())
    if os.path.isdir(folder):
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


@dataclass(frozen=True)
class ImageFormat:
    """How a model wants its images: `[channels, size, size]`, the values of 0 to 1 as (value - mean) / deviation."""

    size: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def image_format(source: str) -> ImageFormat:
    """The format of a model's images, from its configuration and, where there is one, its `preprocessor_config.json`.

    Without the latter mean and deviation are 0.5, as ViT and SigLIP have them.

    Raises:
        BadRequestError: the model reads no square images.
    """
    found = resolve_sketch(source)
    with _quiet_transformers(), _reading(source):
        config = _read_config(found)
        file = transformers.utils.cached_file(
            found.path_or_name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        settings = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    vision = getattr(config, "vision_config", config)
    size, channels = getattr(vision, "image_size", None), getattr(vision, "num_channels", 3)
    if not isinstance(size, int):
        raise BadRequestError(f"model {source!r} has image_size {size}: an image task needs a model of square images")
    mean, deviation = (settings.get(f"image_{name}") or [0.5] * channels for name in ("mean", "std"))
    return ImageFormat(size, channels, tuple(mean), tuple(deviation))


def sketch_tokenizer(source: str) -> tuple[Any, bool]:
    """A tokenizer that is good enough to plan with, and whether it is the model's own.

    Where there is none at hand, one that takes every word and every run of signs for one token.

    Raises:
        BadRequestError: there is one, and it cannot be loaded.
    """
    if _has_tokenizer(resolve_sketch(source)):
        return load_tokenizer(source), True
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"), False


def backbone_parameters(model: nn.Module, head_modules: Sequence[str] = ()) -> int:
    """Count the parameters of the base model, without those of `head_modules` that stand inside it.

    For a skeleton, whose head is what stands outside the base model, leave `head_modules` out. What predicts the next
    token is no task head: it counts, once where it is tied to the embedding.
    """
    predicts_tokens = getattr(model, "get_output_embeddings", lambda: None)() is not None
    base = "" if predicts_tokens else base_prefix(model)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(base) and name.rpartition(".")[0] not in head_modules
    )


def load_skeleton(
    source: str,
    num_labels: int,
    pooling: str | None = None,
    *,
    auto_class: str = SEQUENCES,
    device: str = "meta",
) -> nn.Module:
    """Build the model that `load_backbone` would load, from its configuration alone.

    It has no weights on the meta device, and random ones on another.
    """
    found = resolve_sketch(source)
    chosen = _choose_pooling(found, pooling, num_labels, auto_class)
    with _quiet_transformers(), _reading(source), torch.random.fork_rng(), torch.device(device):
        config = _read_config(found)
        if (classifier := _own_classifier(config, chosen, auto_class)) is not None:
            encoder = transformers.AutoModel.from_config(config, **_without_pooler(config))
            model: nn.Module = classifier(encoder, num_labels)
        else:
            if auto_class != CAUSAL:
                config.num_labels = num_labels
            model = AUTO_CLASSES[auto_class].from_config(config)
    for part in (config, config.get_text_config()):
        if getattr(part, "pad_token_id", None) is None:  # decoders ask for it; its value changes neither shape nor time
            part.pad_token_id = 0
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


def _head_modules(model: nn.Module, missing: set[str], source: str, auto_class: str) -> tuple[str, ...]:
    """Return the layers to train as the head, in the model's order."""
    base, layers = base_prefix(model), layer_prefixes(model)
    fresh = {key.rpartition(".")[0] for key in missing}
    broken = sorted(
        path
        for path in fresh
        if auto_class == CAUSAL or path.startswith(layers) or isinstance(model.get_submodule(path), nn.Embedding)
    )
    if broken:
        raise BadRequestError(
            f"the weights of model {source!r} are incomplete: {len(broken)} layers are missing, {broken[0]} first"
        )
    if auto_class == CAUSAL:
        return ()
    return tuple(
        path
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and (path in fresh or not path.startswith(base))
    )


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise BadRequestError(f"dtype {name!r} is unknown: use one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _choose_pooling(found: ModelSource, pooling: str | None, num_labels: int, auto_class: str) -> Pooling:
    if auto_class != SEQUENCES:
        if pooling not in (None, "own"):
            raise BadRequestError(f"pooling {pooling!r} is for tasks over whole texts: leave it out")
        return "own"
    if num_labels < 1:
        raise BadRequestError(f"num_labels is {num_labels}: a task has at least 1")
    if pooling is None:
        return found.pooling
    if pooling == "mean":
        return "mean"
    if pooling == "own":
        return "own"
    raise BadRequestError(f"pooling {pooling!r} is unknown: use mean or own")


def _own_classifier(config: Any, pooling: Pooling, auto_class: str) -> Callable[[Any, int], nn.Module] | None:
    """Return our class of task model, or None where transformers' own serves."""
    if auto_class == IMAGES and config.model_type == "paligemma":
        return ImagePrefixClassifier
    return MeanPooledClassifier if pooling == "mean" else None


def _read_config(found: ModelSource) -> Any:
    config: Any = transformers.AutoConfig.from_pretrained(found.path_or_name, trust_remote_code=False)
    for part in (config, config.get_text_config()):
        part.use_cache = False  # a classifier reads every token once
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
    return not os.path.isdir(folder) or any(any(folder.glob(pattern)) for pattern in patterns)


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
