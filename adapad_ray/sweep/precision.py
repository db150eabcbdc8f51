"""The precision of the frozen products: what `precision: auto` means for a sweep."""

from __future__ import annotations

from typing import Any, get_args

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.mixed import best_precision
from adapad_ray.models import LINEAR
from adapad_ray.results import Precision
from adapad_ray.sweep.spec import SweepSpec


def resolve_precision(spec: SweepSpec, recorded: Any = None) -> Precision:
    """Return the precision of a sweep, which its file may leave to the machine (`auto`).

    A sweep keeps the precision that its folder has recorded, also on another machine. A new one is mixed where its
    backbone is in fp32 and the hardware has bf16 products: on GPUs, or on a CPU with AVX512-BF16 or AMX.

    Args:
        recorded: the precision in the folder's own file; None for a new folder.

    Raises:
        BadRequestError: `mixed` or `tf32` with a backbone that is not in fp32, `mixed` with one that has no linear
            layers of its own, or `tf32` without GPUs.
    """
    possible = spec.dtype == "float32" and spec.model != LINEAR and spec.quantization is None
    if spec.precision == "mixed" and spec.quantization is not None:
        raise BadRequestError(
            f"precision: mixed is for dense layers, but quantization is {spec.quantization}: use dtype: bfloat16"
        )
    if spec.precision == "mixed" and not possible:
        raise BadRequestError(
            f"precision: mixed is for a pretrained model in float32, but this sweep has model {spec.model!r} in "
            f"{spec.dtype}: use precision: full"
        )
    if spec.precision == "tf32" and (spec.dtype != "float32" or not spec.resources.gpus_per_worker):
        raise BadRequestError(
            f"precision: tf32 is for a model in float32 on GPUs, but this sweep has {spec.dtype} and "
            f"{spec.resources.gpus_per_worker:g} GPUs per worker: use precision: auto"
        )
    if spec.precision != "auto":
        return spec.precision
    if recorded in get_args(Precision):
        return recorded  # type: ignore[no-any-return]
    return best_precision(spec.dtype, on_gpu=spec.resources.gpus_per_worker > 0) if possible else "full"
