"""Backbones: loading recipes, target modules, heads."""

from adapad_ray.models.loading import (
    IMAGES,
    LINEAR,
    SEQUENCES,
    Backbone,
    Pooling,
    backbone_parameters,
    image_format,
    initialise_head,
    keeps_sizes,
    linear_backbone,
    list_models,
    load_backbone,
    load_skeleton,
    resolve_model,
    sketch_tokenizer,
)

__all__ = [
    "IMAGES",
    "LINEAR",
    "SEQUENCES",
    "Backbone",
    "Pooling",
    "backbone_parameters",
    "image_format",
    "initialise_head",
    "keeps_sizes",
    "linear_backbone",
    "list_models",
    "load_backbone",
    "load_skeleton",
    "resolve_model",
    "sketch_tokenizer",
]
