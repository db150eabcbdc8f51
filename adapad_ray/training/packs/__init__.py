"""The training of many slots in one pass; see `adapters.packs` for the pass itself."""

from adapad_ray.training.packs.optimizer import PackOptimizer
from adapad_ray.training.packs.shared_passes import SharedPasses
from adapad_ray.training.packs.trainer import PackedTrainer

__all__ = ["PackOptimizer", "PackedTrainer", "SharedPasses"]
