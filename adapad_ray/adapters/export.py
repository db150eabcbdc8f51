"""Writes a deployed adapter in the PEFT format, with a rank of its own for every module.

The scale is folded into B and `alpha = rank` is written for every module, so that readers which know a single scale
apply it correctly too; pattern keys are anchored full paths, because PEFT matches them as regular expressions with an
optional prefix; a module of rank 0 is left out, because PEFT has no rank 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from adapad_ray.adapters.lane import Lane
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

    @property
    def ranks(self) -> dict[str, int]:
        """Rank per module."""
        return {name: a.shape[0] for name, (a, _) in self.factors.items()}

    @property
    def parameters(self) -> int:
        """Numbers stored in the factors."""
        return sum(a.numel() + b.numel() for a, b in self.factors.values())


def deployed_adapter(adapted: AdaptedModel, lane: Lane) -> DeployedAdapter:
    """The published components that act in `lane`, and the head of that lane, as fp32 CPU tensors."""
    factors = {}
    for name, layer in adapted.layers.items():
        a, b = layer.vectors(lane.frozen)
        if a.shape[0]:
            factors[name] = (a.float().cpu().contiguous(), (b.float().T * layer.scaling).cpu().contiguous())
    head = {
        f"{name}.{key}": value.detach().float().cpu().contiguous()
        for name, part in adapted.heads.items()
        for key, value in part.copies[str(lane.index)].state_dict().items()
    }
    return DeployedAdapter(factors, head, tuple(adapted.heads))


def peft_config(ranks: Mapping[str, int], head_modules: tuple[str, ...], base_model: str) -> dict[str, object]:
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
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "modules_to_save": list(head_modules),
    }


def save_peft(adapter: DeployedAdapter, folder: Path, *, base_model: str, provenance: Mapping[str, object]) -> Path:
    """Writes `adapter` to `folder` so that `peft.PeftModel.from_pretrained` loads it; weights first, config last.

    `provenance` goes to `adapad.json` beside it: where the adapter came from and how to rebuild its backbone.

    Raises:
        ValueError: the adapter has no component (PEFT cannot express that), or a number is not finite.
    """
    if not adapter.factors:
        raise ValueError("an adapter without components cannot be written in the PEFT format")
    tensors = {f"{PREFIX}{name}.lora_A.weight": a for name, (a, _) in adapter.factors.items()}
    tensors |= {f"{PREFIX}{name}.lora_B.weight": b for name, (_, b) in adapter.factors.items()}
    tensors |= {f"{PREFIX}{name}": value for name, value in adapter.head.items()}
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"adapter tensor {bad[0]} holds a value that is not finite; nothing was written")
    with atomic_path(folder / ADAPTER_WEIGHTS) as scratch:
        save_file(tensors, scratch, metadata={"format": "pt"})
    _write_json(folder / "adapad.json", provenance)
    _write_json(folder / ADAPTER_CONFIG, peft_config(adapter.ranks, adapter.head_modules, base_model))
    return folder


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
