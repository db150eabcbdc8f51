"""The conformance suite of a method, with the tiny model and task that it runs on. Needs the extra `test`."""

from adapad_ray.testing.cases import MethodCase, finished, uninterrupted
from adapad_ray.testing.comparison import assert_same_training
from adapad_ray.testing.conformance import MethodConformance
from adapad_ray.testing.tiny import COST_PER_RANK, TRAINING, tiny_backbone, tiny_task, tiny_workspace, word_tokenizer

__all__ = [
    "COST_PER_RANK",
    "TRAINING",
    "MethodCase",
    "MethodConformance",
    "assert_same_training",
    "finished",
    "tiny_backbone",
    "tiny_task",
    "tiny_workspace",
    "uninterrupted",
    "word_tokenizer",
]
