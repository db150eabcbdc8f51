"""Writes a deployed adapter in the PEFT format, with a rank of its own for every module.

The scale is folded into B and `alpha = rank` is written for every module, so that readers which know a single scale
apply it correctly too; pattern keys are anchored full paths, because PEFT matches them as regular expressions with an
optional prefix; a module of rank 0 is left out, because PEFT has no rank 0.

Components of a family that needs fewer numbers than LoRA's factors are written twice: as exact LoRA factors, which PEFT
reads, and in the family's own form beside them, whose size is the adapter's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.linear import AdaptedLinear
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.files import atomic_path, write_text

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class DeployedAdapter:
    """The numbers of one deployable model, detached from training."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """Module → `(A [rank, d_in], B [d_out, rank])`, the scale folded into B; modules of rank 0 are absent."""
    head: dict[str, Tensor]
    """Head tensors by their full path in the model, for instance `classifier.weight`."""
    head_modules: tuple[str, ...]
    family: str = "plain"
    compact: dict[str, Tensor] = field(default_factory=dict)
    """The same update in the family's own form, as `<module>.<name>`; empty where `factors` is that form."""
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    """Module → DoRA's trained lengths `[d_out]` of the rows of the adapted weight; for weight-decomposed adapters."""

    @property
    def ranks(self) -> dict[str, int]:
        """Rank per module."""
        return {name: a.shape[0] for name, (a, _) in self.factors.items()}

    @property
    def parameters(self) -> int:
        """Numbers that the adapter consists of, in its family's own form."""
        return sum(tensor.numel() for tensor in self.compact.values()) or self.lora_parameters

    @property
    def lora_parameters(self) -> int:
        """Numbers stored in the factors, and in the magnitudes where there are any."""
        magnitudes = sum(tensor.numel() for tensor in self.magnitudes.values())
        return sum(a.numel() + b.numel() for a, b in self.factors.values()) + magnitudes


def deployed_adapter(adapted: AdaptedModel, lane: Lane) -> DeployedAdapter:
    """The components that act in `lane`, and the head of that lane, as fp32 CPU tensors."""
    factors = {name: (_exported(a), _exported(b)) for name, (a, b) in adapted.factors(lane).items()}
    compact: dict[str, Tensor] = {}
    for name, layer in adapted.layers.items():
        compact |= {f"{name}.{key}": value for key, value in _compact(layer, lane).items()}
    head = {
        f"{name}.{key}": _exported(value)
        for name, part in adapted.heads.items()
        for key, value in part.copies[str(lane.index)].state_dict().items()
    }
    magnitudes = {name: _exported(value) for name, value in adapted.magnitudes(lane).items()}
    return DeployedAdapter(factors, head, tuple(adapted.heads), adapted.family.name, compact, magnitudes)


def _exported(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()


def _compact(layer: AdaptedLinear, lane: Lane) -> dict[str, Tensor]:
    """What acts in `lane` in the family's own form, the scale folded in; components stand one below another."""
    parts: dict[str, list[Tensor]] = {}
    for block, a, b in layer.deployed(lane):
        for key, value in block.compact(_exported(a), _exported(b) * layer.scale(lane)).items():
            parts.setdefault(key, []).append(value)
    return {key: torch.cat(values).contiguous() for key, values in parts.items()}


def peft_config(
    ranks: Mapping[str, int], head_modules: tuple[str, ...], base_model: str, *, use_dora: bool = False
) -> dict[str, object]:
    """`adapter_config.json` for these ranks: every module named by its full path, patterns anchored."""
    largest = max(ranks.values())
    pattern = {f"^{re.escape(name)}$": rank for name, rank in sorted(ranks.items())}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "use_rslora": False,
        "use_dora": use_dora,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "modules_to_save": list(head_modules),
    }


def save_peft(
    adapter: DeployedAdapter,
    folder: Path,
    *,
    base_model: str,
    provenance: Mapping[str, object],
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Writes `adapter` to `folder` so that `peft.PeftModel.from_pretrained` loads it; weights first, config last.

    A family's own form goes to `<family>.safetensors` beside it.

    `provenance` goes to `adapad.json` beside it: where the adapter came from and how to rebuild its backbone.
    `settings` replace fields of the config.

    Raises:
        ValueError: the adapter has no component (PEFT cannot express that), or a number is not finite.
    """
    if not adapter.factors:
        raise ValueError("an adapter without components cannot be written in the PEFT format")
    tensors = {f"{PREFIX}{name}.lora_A.weight": a for name, (a, _) in adapter.factors.items()}
    tensors |= {f"{PREFIX}{name}.lora_B.weight": b for name, (_, b) in adapter.factors.items()}
    tensors |= {f"{PREFIX}{name}.lora_magnitude_vector": value for name, value in adapter.magnitudes.items()}
    tensors |= {f"{PREFIX}{name}": value for name, value in adapter.head.items()}
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"adapter tensor {bad[0]} holds a value that is not finite; nothing was written")
    with atomic_path(folder / ADAPTER_WEIGHTS) as scratch:
        save_file(tensors, scratch, metadata={"format": "pt"})
    if adapter.compact:
        with atomic_path(folder / f"{adapter.family}.safetensors") as scratch:
            save_file(adapter.compact, scratch, metadata={"format": "pt"})
    _write_json(folder / "adapad.json", provenance)
    config = peft_config(adapter.ranks, adapter.head_modules, base_model, use_dora=bool(adapter.magnitudes))
    _write_json(folder / ADAPTER_CONFIG, {**config, **(settings or {})})
    return folder


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
