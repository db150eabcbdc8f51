"""What GPUs compute, for plans on a machine that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from adapad_ray.results import Precision


class Peak(NamedTuple):
    """TFLOP/s of dense products, as the vendor says."""

    half: float
    """In bf16, or in fp16 where the GPU has no bf16."""
    full: float
    """In fp32."""


PEAKS: Mapping[str, Peak] = {
    "T4": Peak(65, 8.1), "V100": Peak(125, 15.7), "P100": Peak(18.7, 9.3), "L4": Peak(121, 30.3),
    "A10G": Peak(70, 35), "L40S": Peak(362, 91.6), "A100": Peak(312, 19.5), "A100-40G": Peak(312, 19.5),
    "A100-80G": Peak(312, 19.5), "H100": Peak(989, 67), "H20": Peak(148, 44), "H200": Peak(989, 67),
    "B200": Peak(2250, 75),
}  # fmt: skip
"""By accelerator type, as Ray names it."""
USUAL = "H100"
"""The GPU of a sweep that names no type."""
REACHED = 0.4
"""Share of its peak that a GPU is taken to reach with a large model (a project default, not measured). Small models
are bound by launches instead and take longer."""


def assumed_rate(accelerator: str | None, dtype: str, precision: Precision) -> tuple[float, str]:
    """Return FLOP/s of training passes on one GPU, and how they are found, for messages."""
    name = accelerator if accelerator is not None and accelerator in PEAKS else USUAL
    half = dtype in ("bfloat16", "float16") or precision == "mixed"
    peak = PEAKS[name].half if half else PEAKS[name].full
    rate = REACHED * peak * 1e12
    return rate, f"{rate / 1e12:,.0f} TFLOP/s, {REACHED:.0%} of the peak of one {name} in {16 if half else 32} bits"
