"""`compress`: a smaller adapter from one that exists."""

from __future__ import annotations

from pathlib import Path

from adapad_ray.adapters.compression import CompressionReport, compress_adapter
from adapad_ray.deployment.compressed import complete_compressed


def compress(
    adapter: str | Path,
    to: str | Path,
    *,
    keep_ratio: float | None = None,
    keep_energy: float | None = None,
    budget: int | str | None = None,
    cut: str = "global",
) -> CompressionReport:
    """Cuts any LoRA adapter in the PEFT format to its largest singular values, without data or base model (PARA).

    Args:
        adapter: its folder.
        to: the folder to create.
        keep_ratio: share of all singular values to keep.
        keep_energy: share of the updates' energy Σσ² to keep.
        budget: adapter parameters, as `40k`, or ranks, as `144 ranks`. Exactly one of the three must be given.
        cut: `global`, `local` (the same share of energy per module) or `uniform`.

    Raises:
        BadRequestError: the adapter is damaged or not a plain LoRA, or an argument is invalid.
    """
    text = None if budget is None else str(budget)
    report = compress_adapter(Path(adapter), Path(to), ratio=keep_ratio, energy=keep_energy, budget=text, cut=cut)
    complete_compressed(Path(adapter), Path(to), report)
    return report
