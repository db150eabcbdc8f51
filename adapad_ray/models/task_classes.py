"""Which class a task's model is built from: one of transformers' auto classes, or a class of `task_models`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import transformers
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.models.source import ModelSource, Pooling
from adapad_ray.models.task_models import ImagePrefixClassifier, MeanPooledClassifier

SEQUENCES, CAUSAL, IMAGES = (
    f"AutoModelFor{kind}" for kind in ("SequenceClassification", "CausalLM", "ImageClassification")
)
"""Auto classes that need special treatment. A causal language model has no task head to train."""

_MIXES_PADDING = ("convbert", "fnet", "nystromformer", "yoso")
"""Architectures whose convolutions, Fourier transforms or approximations of attention reach over the mask."""
_SEES_BOTH_SIDES = (
    "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "modernbert", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
)  # fmt: skip
"""Encoders that transformers loads as causal language models too."""


def choose_pooling(source: ModelSource, pooling: str | None, num_labels: int, auto_class: str) -> Pooling:
    """Return the pooling to use: the one asked for, else the declared one.

    Raises:
        BadRequestError: the pooling is unknown or does not apply, or `num_labels` is below 1.
    """
    if auto_class != SEQUENCES:
        if pooling not in (None, "own"):
            raise BadRequestError(f"pooling {pooling!r} is for tasks over whole texts: leave it out")
        return "own"
    if num_labels < 1:
        raise BadRequestError(f"num_labels is {num_labels}: a task has at least 1")
    if pooling is None:
        return source.pooling
    if pooling == "mean":
        return "mean"
    if pooling == "own":
        return "own"
    raise BadRequestError(f"pooling {pooling!r} is unknown: use mean or own")


def project_classifier(config: Any, pooling: Pooling, auto_class: str) -> Callable[[Any, int], nn.Module] | None:
    """Return the class of `task_models` that wraps the bare encoder, or None where the auto class is used."""
    if auto_class == IMAGES and config.model_type == "paligemma":
        return ImagePrefixClassifier
    return MeanPooledClassifier if pooling == "mean" else None


def check_architecture(config: Any, auto_class: str, source: str) -> None:
    """Check that an architecture gives a text the same result whatever text stands beside it in a batch.

    Raises:
        BadRequestError: it does not, or it sees the answer that it should predict.
    """
    kind = config.model_type
    if kind in _MIXES_PADDING:
        raise BadRequestError(
            f"model {source!r} is a {kind}, whose layers mix padding into the states of a text, so that results depend "
            "on the other texts of a batch: use another architecture"
        )
    if auto_class == CAUSAL and kind in _SEES_BOTH_SIDES and not getattr(config, "is_decoder", False):
        raise BadRequestError(
            f"model {source!r} is a {kind}, whose tokens see the tokens after them, the answer among them: this task "
            "needs a causal language model, such as a llama or a gpt2"
        )


def reads_last_position(config: Any) -> bool:
    """Return whether the model's own classifier reads the last position, whatever token stands there.

    Other classifiers of decoders look for the last token that is no padding. XLNet counts positions from one token to
    another, so that padding on the left does not shift them.
    """
    return config.model_type == "xlnet" and getattr(config, "summary_type", "last") == "last"


def without_pooler(config: Any) -> dict[str, bool]:
    """Return the keyword argument that leaves out an encoder's pooler, where the architecture has one.

    Raises:
        BadRequestError: the model is an encoder-decoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise BadRequestError(f"pooling mean needs one stack, which a {config.model_type} is not: use pooling own")
    classes = transformers.AutoModel._model_mapping[type(config)]  # type: ignore[attr-defined]
    architecture = classes[0] if isinstance(classes, tuple) else classes
    takes_pooler = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if takes_pooler else {}
