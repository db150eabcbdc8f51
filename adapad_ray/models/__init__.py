"""Backbones: frozen pretrained models, their task heads, and the modules of them that adapters may target.

`source` finds a model, `loading` loads it with its weights or by a recipe, `skeleton` builds it without them for
`adapad plan`, and `text_check` holds it against its tokenizer and the texts.
"""

from adapad_ray.models.backbone import Backbone, backbone_parameters, linear_backbone
from adapad_ray.models.head import initialise_head
from adapad_ray.models.images import ImageFormat, image_format
from adapad_ray.models.loading.recipe import BackboneRecipe, LinearRecipe, find_recipe, load_backbone
from adapad_ray.models.skeleton import load_skeleton
from adapad_ray.models.source import Pooling, keeps_sizes, list_models, resolve_model, unloadable_weights
from adapad_ray.models.task_classes import CAUSAL, IMAGES, SEQUENCES
from adapad_ray.models.task_models import LINEAR
from adapad_ray.models.text_check import Reading, check_texts
from adapad_ray.models.tokenizer import load_tokenizer, sketch_tokenizer

__all__ = [
    "CAUSAL",
    "IMAGES",
    "LINEAR",
    "SEQUENCES",
    "Backbone",
    "BackboneRecipe",
    "ImageFormat",
    "LinearRecipe",
    "Pooling",
    "Reading",
    "backbone_parameters",
    "check_texts",
    "find_recipe",
    "image_format",
    "initialise_head",
    "keeps_sizes",
    "linear_backbone",
    "list_models",
    "load_backbone",
    "load_skeleton",
    "load_tokenizer",
    "resolve_model",
    "sketch_tokenizer",
    "unloadable_weights",
]
