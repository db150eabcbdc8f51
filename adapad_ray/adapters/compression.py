"""Cuts a PEFT LoRA adapter on disk by its singular values (PARA, 2604.27796), without data, base model or training."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from adapad_ray.adapters.export import ADAPTER_WEIGHTS, DeployedAdapter, save_peft
from adapad_ray.adapters.load import LoadedAdapter, load_adapter
from adapad_ray.adapters.truncation import (
    Cut,
    Keep,
    KeepEnergy,
    KeepParameters,
    KeepRatio,
    Spectrum,
    allocate,
    spectrum,
    update_distance,
)
from adapad_ray.budget import parse_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.files import filled, require_empty, write_text
from adapad_ray.safe_json import read_object

REPORT = "compression.json"
"""File with the `CompressionReport`."""
PROVENANCE = "adapad.json"
"""File that adapad-ray writes next to its adapters: cell, backbone, classes."""

Factors = dict[str, tuple[Tensor, Tensor]]

_INHERITED = ("task_type", "auto_mapping", "revision", "ensure_weight_tying")
"""Settings that are copied unchanged from the old config, if present."""


@dataclass(frozen=True)
class ModuleReport:
    """What the cut changed in one module."""

    module: str
    in_features: int
    out_features: int
    rank_before: int
    rank: int
    energy: float
    """Σσ² of the update before the cut: its squared Frobenius norm."""
    energy_kept: float
    singular_values: list[float]
    """Before the cut, descending."""

    @property
    def cost(self) -> int:
        """Parameters of one component."""
        return self.in_features + self.out_features


@dataclass(frozen=True)
class CompressionReport:
    """What the cut changed."""

    source_sha256: str
    """Digest of the original weights."""
    cut: Cut
    keep: dict[str, Any]
    """The request: `{"ratio": γ}`, `{"energy": ε}` or `{"budget": parameters, "per_parameter": …}`."""
    parameters_before: int
    parameters: int
    budget_remainder: int | None
    """Parameters of the budget that no further component fits into; None without a budget."""
    energy_kept: float
    """Share of Σσ² over all modules."""
    relative_error: float
    """‖ΔW' - ΔW‖ / ‖ΔW‖ over all modules for the stored factors: the cut and the rounding to their dtype."""
    modules: list[ModuleReport]
    notes: list[str]
    """What was read otherwise than it stands in the adapter's files."""

    @property
    def ranks(self) -> tuple[int, int]:
        """Components of all modules, before and after the cut."""
        return sum(m.rank_before for m in self.modules), sum(m.rank for m in self.modules)


def compress_adapter(
    source: Path,
    to: Path,
    *,
    ratio: float | None = None,
    energy: float | None = None,
    budget: str | None = None,
    cut: str = "global",
) -> CompressionReport:
    """Cuts the adapter in `source` and writes a PEFT adapter and a report to the folder `to`.

    The factors keep their dtype, but 8 bits become fp32. Modules of rank 0 are left out. `modules_to_save` and
    resized embeddings are copied unchanged.

    Args:
        ratio: share of all singular values to keep.
        energy: share of Σσ² to keep.
        budget: parameters or ranks to keep, as `parse_budget` reads them; exactly one of the three must be given.
        cut: `global`, `local` or `uniform`, as in `truncation.allocate`.

    Raises:
        BadRequestError: the adapter is damaged or not a plain LoRA, an argument is invalid, nothing would be left, or
            `to` is not empty.
    """
    require_empty(to)
    chosen = _parse_cut(cut)
    adapter = load_adapter(source)
    keep = _parse_keep(ratio, energy, budget, adapter)
    provenance = _provenance(source / PROVENANCE)
    exact = adapter.folded()
    spectra = {name: spectrum(a, b) for name, (a, b) in exact.items()}
    ranks = allocate(spectra, keep, chosen)
    total = sum(s.energy() for s in spectra.values())
    factors = {name: _stored(spectra[name], rank, *adapter.factors[name]) for name, rank in ranks.items()}
    saved = {_name_in_peft(name, factors): tensor for name, tensor in adapter.saved.items()}
    deployed = DeployedAdapter(factors, saved, tuple(adapter.config.modules_to_save or ()))
    report = CompressionReport(
        source_sha256=hashlib.sha256((source / ADAPTER_WEIGHTS).read_bytes()).hexdigest(),
        cut=chosen,
        keep=_request(keep),
        parameters_before=sum(a.numel() + b.numel() for a, b in adapter.factors.values()),
        parameters=deployed.parameters,
        budget_remainder=keep.budget - deployed.parameters if isinstance(keep, KeepParameters) else None,
        energy_kept=sum(spectra[name].energy(rank) for name, rank in ranks.items()) / total,
        relative_error=math.sqrt(_squared_error(exact, factors) / total),
        modules=[_module_report(name, s, ranks.get(name, 0)) for name, s in spectra.items()],
        notes=list(adapter.notes),
    )
    about = {key: value for key, value in asdict(report).items() if key != "modules"}
    with filled(to):
        write_text(to / REPORT, json.dumps(asdict(report), indent=2) + "\n")
        save_peft(
            deployed,
            to,
            base_model=str((adapter.config.model_extra or {}).get("base_model_name_or_path", "")),
            provenance={**provenance, "parameters": deployed.parameters, "compressed": about},
            settings=_settings(adapter),
        )
    return report


def _parse_cut(name: str) -> Cut:
    for cut in get_args(Cut):
        if name == cut:
            return cut  # type: ignore[no-any-return]
    raise BadRequestError(f"cut {name!r} is unknown: use {', '.join(get_args(Cut))}")


def _parse_keep(ratio: float | None, energy: float | None, budget: str | None, adapter: LoadedAdapter) -> Keep:
    if sum(value is not None for value in (ratio, energy, budget)) != 1:
        raise BadRequestError("pass exactly one of --keep-ratio, --keep-energy and --budget")
    if ratio is not None:
        return KeepRatio(ratio)
    if energy is not None:
        return KeepEnergy(energy)
    assert budget is not None
    if "%" in budget:
        raise BadRequestError(
            f"budget {budget!r} is a share of a backbone, and compress does not read the backbone: pass "
            "parameters (40k) or ranks (144 ranks)"
        )
    return KeepParameters(parse_budget(budget, modules=adapter.shapes, backbone_parameters=0))


def _stored(spectrum: Spectrum, rank: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors A `[rank, d_in]` and B `[d_out, rank]` in the dtype of the old ones."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    new = tuple(factor.to(dtype).contiguous() for factor in spectrum.factors(rank))
    if not all(factor.isfinite().all() for factor in new):
        raise BadRequestError(f"an update of this adapter, multiplied by its scale, is too large for {dtype}")
    return new[0], new[1]


def _name_in_peft(name: str, factors: Factors) -> str:
    """The name of a saved weight in the adapted model, where it may be that of an adapted output embedding."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if module in factors else name


def _squared_error(exact: Factors, stored: Factors) -> float:
    """‖ΔW' - ΔW‖² over all modules; a module that is not stored has the update 0."""
    nothing = {name: (a[:0], b[:, :0]) for name, (a, b) in exact.items()}
    return sum(update_distance(factors, (nothing | stored)[name]) ** 2 for name, factors in exact.items())


def _module_report(name: str, spectrum: Spectrum, rank: int) -> ModuleReport:
    return ModuleReport(
        name,
        spectrum.vt.shape[1],
        spectrum.u.shape[0],
        spectrum.rank,
        rank,
        spectrum.energy(),
        spectrum.energy(rank),
        spectrum.values.tolist(),
    )


def _request(keep: Keep) -> dict[str, Any]:
    if isinstance(keep, KeepParameters):
        return asdict(keep)
    return {"ratio" if isinstance(keep, KeepRatio) else "energy": keep.share}


def _settings(adapter: LoadedAdapter) -> dict[str, object]:
    """Settings of the new config that come from the old one."""
    config, extra = adapter.config, adapter.config.model_extra or {}
    return {
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": config.modules_to_save,
        **{key: extra[key] for key in _INHERITED if key in extra},
    }


def _provenance(path: Path) -> dict[str, Any]:
    """What adapad-ray recorded about the adapter's backbone, classes and task; empty for adapters of other tools."""
    if not path.is_file():
        return {}
    content = read_object(path, str(path))
    names = ["cell", "point", "model", "model_digest", "pooling", "auto_class", "labels"]
    names += ["task", "max_length", "batch_size", "dtype", "settings"]  # of an export, for `adapad predict`
    names += ["method", "loading"]  # for its model card
    return {key: content[key] for key in names if key in content}
