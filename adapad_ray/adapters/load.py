"""Reads an untrusted PEFT LoRA adapter and rejects it if it is damaged or more than a plain B A.

PEFT ignores tensors of modules that are not targeted and accepts NaN; here both are errors. Names that wrappers of the
model left in the tensors' keys are removed, which PEFT would fail on or ignore. Only JSON and safetensors files are
opened, and the base model is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapad_ray.adapters.adapter_config import WRAPPERS, AdapterConfig, NameMatcher, check_targets, read_config, scales
from adapad_ray.adapters.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.files import check_adapter_folder

LARGEST_WEIGHTS = 16 * 2**30
"""Largest weights file that is read, in bytes, because all of it is held in memory. A project default: a LoRA of rank
256 on a 70B model has about 7 GB."""

_LARGEST_UPDATE = 1e30
"""Largest bound on an entry of scale · B A. Above it, squares of singular values would overflow."""
_LONGEST_NAME = 1000
_EIGHT_BITS = tuple(f"torch.float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"))
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.(?P<adapter>[\w-]+))?\.weight")
_NAMED_COPY = re.compile(r"(.+)\.modules_to_save\.[\w-]+\.([^.]+(\..+)?)")
_EMBEDDING = re.compile(
    r"((?:.+\.)?(?:embed_tokens|lm_head|wte|word_embeddings?|shared|embed_in|embed_out))(\.base_layer)?(\.weight|\.bias)"
)
"""Names of embeddings, which PEFT saves beside the factors where the vocabulary was resized or one is adapted."""


@dataclass(frozen=True)
class LoadedAdapter:
    """A plain LoRA as read from its files."""

    config: AdapterConfig
    factors: dict[str, tuple[Tensor, Tensor]]
    """Module → `(A [rank, d_in], B [d_out, rank])` as stored, the scale not applied."""
    scales: dict[str, float]
    """Module → alpha / rank, or alpha / √rank for rsLoRA."""
    saved: dict[str, Tensor]
    """Weights of `modules_to_save` and of resized embeddings, by their full path in the model."""
    notes: tuple[str, ...] = ()
    """What was read otherwise than it stands in the files; one sentence each."""

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
    check_adapter_folder(folder)
    config = read_config(folder / ADAPTER_CONFIG)
    notes: list[str] = []
    tensors = _read_tensors(folder, notes)
    factors, rest = _pair_factors(tensors, notes)
    kept = config.modules_to_save or []
    saved = {name: tensor for name, tensor in rest.items() if _is_saved(name, kept) or _EMBEDDING.fullmatch(name)}
    stray = sorted(rest.keys() - saved.keys())
    if stray:
        raise BadRequestError(
            f"{ADAPTER_WEIGHTS} holds {stray[0]}, which is neither a LoRA factor of a linear layer nor part of "
            f"modules_to_save ({', '.join(config.modules_to_save or []) or 'none'}): only these two can be kept"
        )
    if config.modules_to_save and not any(_is_saved(name, kept) for name in saved):
        raise BadRequestError(
            f"{ADAPTER_WEIGHTS} holds no weight of modules_to_save ({', '.join(config.modules_to_save)}): PEFT would "
            "load the adapter with a random head"
        )
    matcher = NameMatcher()
    check_targets(config, factors, matcher, notes)
    scale_of = scales(config, {name: a.shape[0] for name, (a, _) in factors.items()}, matcher)
    for name, (a, b) in factors.items():
        size = abs(scale_of[name]) * float(a.abs().max()) * float(b.abs().max())
        if not size < _LARGEST_UPDATE:
            raise BadRequestError(
                f"the update of module {name} may reach {size:.0e}, above the limit of {_LARGEST_UPDATE:.0e}: the "
                "factors or the scale are damaged"
            )
    return LoadedAdapter(config, factors, scale_of, saved, tuple(notes))


def _read_tensors(folder: Path, notes: list[str]) -> dict[str, Tensor]:
    """Return all tensors by their names without PEFT's prefix and without parts of wrappers."""
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
    if stored and all(key.startswith(f"{PREFIX}module.") for key in stored):  # torch's DistributedDataParallel
        stored = {PREFIX + key.removeprefix(f"{PREFIX}module."): tensor for key, tensor in stored.items()}
        notes.append("the wrapper 'module' is removed from the names of the tensors, because PEFT would not find them")
    if stored and all(key.startswith(PREFIX * 2) for key in stored):
        while all(key.startswith(PREFIX * 2) for key in stored):
            stored = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
        notes.append(f"{PREFIX[:-1]} stood in the names of the tensors more than once, and PEFT would not find them")
    tensors: dict[str, Tensor] = {}
    removed = sorted({part for key in stored for part in key.split(".") if part in WRAPPERS})
    eight_bits = sorted({str(tensor.dtype) for tensor in stored.values() if str(tensor.dtype) in _EIGHT_BITS})
    for key, tensor in stored.items():
        clean = ".".join(part for part in key.split(".") if part not in WRAPPERS)
        name = clean.removeprefix(PREFIX)
        if name == clean or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise BadRequestError(
                f"{path} holds {key[:100]!r}: names must be {PREFIX}<module path>.<weight>, as PEFT's are"
            )
        if name in tensors:
            raise BadRequestError(f"{path} holds {name} twice, once without {', '.join(removed)} in its name")
        if str(tensor.dtype) in _EIGHT_BITS:
            tensor = tensor.float()
        if not tensor.is_floating_point() or tensor.itemsize == 1:
            raise BadRequestError(f"{path}: {name} is {tensor.dtype}, not floating point of 8 to 64 bits")
        if not tensor.isfinite().all():
            raise BadRequestError(f"{path}: {name} holds a value that is not finite (NaN or infinite)")
        tensors[name] = tensor
    if removed:
        notes.append(
            f"{', '.join(removed)} was removed from the names of modules: PEFT would have ignored their weights"
        )
    if eight_bits:
        notes.append(f"tensors of {', '.join(eight_bits)} are kept as torch.float32")
    return tensors


def _pair_factors(
    tensors: Mapping[str, Tensor], notes: list[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return `(A, B)` per module in the file's order, and the tensors that are not factors."""
    halves: dict[str, dict[str, Tensor]] = {}
    rest, adapters = {}, set()
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is not None:
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
            adapters.add(match["adapter"] or "")
        elif ".lora_embedding_" in name:
            raise BadRequestError(f"{name}: LoRA on an embedding is not supported, only on linear layers")
        elif ".lora_magnitude_vector" in name:
            raise BadRequestError(f"{name}: the adapter is a DoRA, whose update is not a plain B A")
        elif ".original_module." not in name:  # the base model's own, which the saved copy replaces
            rest[_EMBEDDING.sub(r"\1\3", _NAMED_COPY.sub(r"\1.\2", name))] = tensor
    if len(adapters) > 1:
        names = ", ".join(sorted(name or "one without a name" for name in adapters))
        raise BadRequestError(f"{ADAPTER_WEIGHTS} holds the factors of several adapters ({names}): keep those of one")
    if adapters and adapters != {""}:
        notes.append(
            f"the adapter's name {min(adapters)!r} was removed from the names of its factors, as PEFT's files lack it"
        )
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
