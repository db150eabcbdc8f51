"""The stages of a sweep in the order in which they run: Tune, Curve; in `mode: search` Search, Curve, Front."""

from adapad_ray.sweep.stages.base import Stage
from adapad_ray.sweep.stages.build import build_stages

__all__ = ["Stage", "build_stages"]
