"""The task head: which layers of a loaded model are trained as the head, and how they are initialised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.models.target_modules import base_prefix, layer_prefixes
from adapad_ray.models.task_classes import CAUSAL
from adapad_ray.wording import counted


def find_head_modules(model: nn.Module, missing: set[str], source: str, auto_class: str) -> tuple[str, ...]:
    """Return the paths of the head's layers, in the model's order.

    The head is every layer with parameters outside the base model, and every layer inside it (a pooler) whose weights
    the checkpoint lacks. A causal language model has none.

    Args:
        missing: parameters that the checkpoint lacks, or has with another shape.
        source: the model as the user named it, for messages.

    Raises:
        BadRequestError: the checkpoint lacks a repeated layer or an embedding.
    """
    base, layers = base_prefix(model), layer_prefixes(model)
    fresh = {key.rpartition(".")[0] for key in missing}
    broken = sorted(
        path
        for path in fresh
        if auto_class == CAUSAL or path.startswith(layers) or isinstance(model.get_submodule(path), nn.Embedding)
    )
    if broken:
        raise BadRequestError(
            f"the weights of model {source!r} do not go with its config.json: {counted(len(broken), 'layer')} of it "
            f"{'is' if len(broken) == 1 else 'are'} missing in them or of another shape there, {broken[0]} first"
        )
    if auto_class == CAUSAL:
        return ()
    return tuple(
        path
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and (path in fresh or not path.startswith(base))
    )


def initialise_head(model: nn.Module, head_modules: Sequence[str], seed: int) -> None:
    """Initialise the head in place: weights from N(0, `config.initializer_range`²), biases 0, norms 1.

    Numbers are drawn on the CPU by a generator of their own, so they depend on neither device nor global state.
    """
    config: Any = model.config
    deviation = float(getattr(config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in head_modules:
            for name, parameter in model.get_submodule(path).named_parameters(recurse=False):
                if parameter.ndim > 1:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))
                else:
                    parameter.fill_(1.0 if name == "weight" else 0.0)
