"""A backbone made of a model that the user has loaded: frozen while it is used, and given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.mixed import use_bf16_products, use_full_products
from adapad_ray.frozen_linear.quantized import keep_products_exact
from adapad_ray.models.backbone import Backbone, backbone_parameters
from adapad_ray.models.head import find_head_modules
from adapad_ray.models.loading.digest import weights_digest
from adapad_ray.models.source import Pooling
from adapad_ray.models.target_modules import base_prefix
from adapad_ray.models.task_classes import CAUSAL, SEQUENCES, check_architecture
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.models.tokenizer import make_ready_to_pad


def own_backbone(
    model: nn.Module,
    tokenizer: Any,
    *,
    outputs: int | None = None,
    auto_class: str = SEQUENCES,
    head_modules: Sequence[str] | None = None,
) -> Backbone:
    """Describe a model of transformers as a backbone.

    Its configuration may get the tokenizer's padding token, and 4-bit layers keep their products in their own dtype
    from now on (see `keep_products_exact`); nothing else of it changes.

    Args:
        model: for `auto_class`, or a bare encoder, which becomes a `MeanPooledClassifier`.
        tokenizer: a copy of it is used; None where training is given token ids.
        outputs: what the task needs of the head; None: whatever the head has.
        head_modules: paths of the layers to train as the head; default: every layer outside the base model. Name a
            pooler too if its weights are new.

    Raises:
        BadRequestError: the model carries an adapter already, its head has other outputs, a path is unknown, or the
            tokenizer cannot pad.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        raise BadRequestError(f"model is a {type(model).__name__} without a configuration: pass one of transformers")
    require_bare(model)
    keep_products_exact(model)
    name = str(getattr(config, "_name_or_path", "") or type(model).__name__)
    check_architecture(config, auto_class, name)
    pooling: Pooling = "own"
    if auto_class == SEQUENCES and not base_prefix(model):
        if outputs is None:
            raise BadRequestError(f"model is a {type(model).__name__}, which has no head: wrap it in a classifier")
        model, pooling = MeanPooledClassifier(model, outputs).to(_device(model)), "mean"  # type: ignore[arg-type]
    elif isinstance(model, MeanPooledClassifier):
        pooling = "mean"
    if outputs is not None and auto_class != CAUSAL and int(config.num_labels) != outputs:
        raise BadRequestError(
            f"the model has num_labels {config.num_labels}, but these data need {outputs}: load it with "
            f"num_labels={outputs}"
        )
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
        make_ready_to_pad(tokenizer, config, name)
        for part in (config, config.get_text_config()):
            part.pad_token_id = tokenizer.pad_token_id
    head = _head(model, head_modules, name, auto_class)
    digest = weights_digest(pooling, model, head)
    return Backbone(name, model, tokenizer, head, pooling, digest, backbone_parameters(model, head))


def require_bare(model: nn.Module) -> None:
    """Check that PEFT has put no adapter into a model.

    Raises:
        BadRequestError: it has.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise BadRequestError("the model carries an adapter of PEFT: take it off with unload(), or merge_and_unload()")


class Borrowed:
    """Freezes the model of a backbone, in eval mode, until `give_back`, which restores head, modes and what learns.

    Args:
        precision: `mixed` computes the products with frozen weights in bf16.
    """

    def __init__(self, backbone: Backbone, precision: str) -> None:
        self._model = model = backbone.model
        self._modes = [(module, module.training) for module in model.modules()]
        self._learning = [(p, p.requires_grad) for p in model.parameters()]
        self._head = {
            path: {name: tensor.clone() for name, tensor in model.get_submodule(path).state_dict().items()}
            for path in backbone.head_modules
        }
        model.requires_grad_(False).eval()
        if precision == "mixed":
            use_bf16_products(model, skip=backbone.head_modules)

    def give_back(self) -> None:
        """Restore the model. What was attached to it must be off."""
        use_full_products(self._model)
        for path, tensors in self._head.items():
            self._model.get_submodule(path).load_state_dict(tensors)
        for parameter, learns in self._learning:
            parameter.requires_grad_(learns)
        for module, training in self._modes:
            module.training = training


@contextmanager
def borrowed(backbone: Backbone, precision: str) -> Iterator[None]:
    """Borrow the model of a backbone while the block runs."""
    loan = Borrowed(backbone, precision)
    try:
        yield
    finally:
        loan.give_back()


def _head(model: nn.Module, chosen: Sequence[str] | None, name: str, auto_class: str) -> tuple[str, ...]:
    if chosen is None:
        return find_head_modules(model, set(), name, auto_class)
    known = dict(model.named_modules())
    for path in chosen:
        if path not in known:
            raise BadRequestError(
                f"head_modules {path!r} is no module of the model: its head is outside the base model"
            )
    return tuple(chosen)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
