"""Rank discovery under one budget: which modules grow, and the scores that decide it."""

from adapad_ray.methods.growth.growing import GrowingMethod
from adapad_ray.methods.growth.scores import GradientScores, PendingNumbers, ReserveScores, SmoothedScores, depths

__all__ = ["GradientScores", "GrowingMethod", "PendingNumbers", "ReserveScores", "SmoothedScores", "depths"]
