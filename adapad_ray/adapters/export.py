"""Writes a deployed adapter in the PEFT format, with a rank for each module.

The scale is folded into B and `alpha = rank` is written for every module, so that readers that support a single scale
apply it correctly too. Pattern keys are anchored full paths, because PEFT matches them as regular expressions with an
optional prefix. Modules of rank 0 are left out, because PEFT has no rank 0.

Components of a family that needs fewer numbers than LoRA factors are written twice: as exact LoRA factors, which PEFT
reads, and in the family's own form in a second file, whose size is the adapter's size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.files import atomic_path, write_text
from adapad_ray.models import Backbone

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class DeployedAdapter:
    """The tensors of one deployable model, detached from training."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """Module → `(A [rank, d_in], B [d_out, rank])`, the scale folded into B; modules of rank 0 are absent."""
    head: dict[str, Tensor]
    """Head tensors by their full path in the model, for instance `classifier.weight`."""
    head_modules: tuple[str, ...]
    family: str = "plain"
    compact: dict[str, Tensor] = field(default_factory=dict)
    """The same update in the family's own form, as `<module>.<name>`; empty where `factors` is that form."""
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    """Module → trained length `[d_out]` of every row of the adapted weight; empty unless the adapter is a DoRA."""
    fan_in_fan_out: bool = False
    """Whether an adapted layer stores its weight as `[d_in, d_out]`, as GPT-2's `Conv1D` does. Factors do not."""

    @property
    def ranks(self) -> dict[str, int]:
        """Rank per module."""
        return {name: a.shape[0] for name, (a, _) in self.factors.items()}

    @property
    def parameters(self) -> int:
        """Size of the adapter in its family's own form."""
        return sum(tensor.numel() for tensor in self.compact.values()) or self.lora_parameters

    @property
    def lora_parameters(self) -> int:
        """Size of the LoRA factors and of the magnitudes."""
        magnitudes = sum(tensor.numel() for tensor in self.magnitudes.values())
        return sum(a.numel() + b.numel() for a, b in self.factors.values()) + magnitudes


def deployed_adapter(adapted: TrainableModel, lane: Lane) -> DeployedAdapter:
    """Return what a deployment of `lane` consists of, the head of that lane included, as fp32 tensors on the CPU."""
    return DeployedAdapter(
        factors={name: (_exported(a), _exported(b)) for name, (a, b) in adapted.factors(lane).items()},
        head={name: _exported(value) for name, value in adapted.heads.tensors(lane.index).items()},
        head_modules=tuple(adapted.heads),
        family=adapted.family_name,
        compact=adapted.compact(lane),
        magnitudes={name: _exported(value) for name, value in adapted.magnitudes(lane).items()},
        fan_in_fan_out=adapted.fan_in_fan_out,
    )


def provenance(adapter: DeployedAdapter, adapted: TrainableModel, lane: Lane, backbone: Backbone) -> dict[str, object]:
    """Where an adapter came from, for `adapad.json`, as far as its training alone decides it.

    Args:
        adapter: `deployed_adapter(adapted, lane)`.
    """
    return {
        "model": backbone.name,
        "model_digest": backbone.digest,
        "pooling": backbone.pooling,
        "family": adapter.family,
        "parameters": adapter.parameters,
        "lora_parameters": adapter.lora_parameters,
        "scaling_folded_into_B": {name: adapted.scales[name] * lane.scale for name in adapter.factors},
    }


def _exported(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()


def peft_config(adapter: DeployedAdapter, base_model: str) -> dict[str, object]:
    """Return `adapter_config.json`: every module named by its full path, patterns anchored."""
    ranks = adapter.ranks
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
        "use_dora": bool(adapter.magnitudes),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": adapter.fan_in_fan_out,
        "target_modules": sorted(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "modules_to_save": list(adapter.head_modules),
    }


def save_peft(
    adapter: DeployedAdapter,
    folder: Path,
    *,
    base_model: str,
    provenance: Mapping[str, object],
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Write `adapter` to `folder` so that `peft.PeftModel.from_pretrained` loads it; weights first, config last.

    The family's own form, if there is one, goes to `<family>.safetensors`.

    Args:
        provenance: where the adapter came from and how to rebuild its backbone; goes to `adapad.json`.
        settings: fields of the config to replace.

    Raises:
        ValueError: the adapter has no component (PEFT cannot express that), or a value is not finite.
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
    _write_json(folder / ADAPTER_CONFIG, {**peft_config(adapter, base_model), **(settings or {})})
    return folder


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
