"""The conformance suite of a method, and the small models and tasks it runs on."""

from adapad_ray.testing.conformance import (
    COST_PER_RANK,
    TRAINING,
    MethodCase,
    MethodConformance,
    assert_same_training,
    tiny_backbone,
    tiny_task,
    tiny_workspace,
    uninterrupted,
)

__all__ = [
    "COST_PER_RANK",
    "TRAINING",
    "MethodCase",
    "MethodConformance",
    "assert_same_training",
    "tiny_backbone",
    "tiny_task",
    "tiny_workspace",
    "uninterrupted",
]
