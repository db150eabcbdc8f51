"""What GPUs compute and hold, for plans on a machine that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from adapad_ray.results import Precision


class GpuSpec(NamedTuple):
    """One model of GPU, as its vendor describes it."""

    half: float
    """TFLOP/s of dense products in bf16, or in fp16 where the GPU has no bf16."""
    full: float
    """The same in fp32."""
    gigabytes: int
    """Memory of the largest model of that name."""


GPU_SPECS: Mapping[str, GpuSpec] = {
    "T4": GpuSpec(65, 8.1, 16),
    "V100": GpuSpec(125, 15.7, 32),
    "P100": GpuSpec(18.7, 9.3, 16),
    "L4": GpuSpec(121, 30.3, 24),
    "A10G": GpuSpec(70, 35, 24),
    "L40S": GpuSpec(362, 91.6, 48),
    "A100": GpuSpec(312, 19.5, 80),
    "A100-40G": GpuSpec(312, 19.5, 40),
    "A100-80G": GpuSpec(312, 19.5, 80),
    "H100": GpuSpec(989, 67, 80),
    "H20": GpuSpec(148, 44, 96),
    "H200": GpuSpec(989, 67, 141),
    "B200": GpuSpec(2250, 75, 180),
}
"""By accelerator type, as Ray names it."""
USUAL = "H100"
"""The GPU of a sweep that names no type."""
REACHED = 0.4
"""Share of its peak that a GPU is taken to reach with a large model (a project default, not measured). Small models
are bound by launches instead and take longer."""


def assumed_rate(accelerator: str | None, dtype: str, precision: Precision) -> tuple[float, str]:
    """Return FLOP/s of training passes on one GPU, and how they are found, for messages."""
    name = accelerator if accelerator is not None and accelerator in GPU_SPECS else USUAL
    half = dtype in ("bfloat16", "float16") or precision == "mixed"
    peak = GPU_SPECS[name].half if half else GPU_SPECS[name].full
    rate = REACHED * peak * 1e12
    return rate, f"{rate / 1e12:,.0f} TFLOP/s, {REACHED:.0%} of the peak of one {name} in {16 if half else 32} bits"
