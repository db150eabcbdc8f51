"""The skeleton: a model built from its configuration alone, for `adapad plan`."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import read_config, resolve_for_planning
from adapad_ray.models.task_classes import (
    CAUSAL,
    SEQUENCES,
    check_architecture,
    choose_pooling,
    project_classifier,
    without_pooler,
)


def load_skeleton(
    source: str,
    num_labels: int,
    pooling: str | None = None,
    *,
    auto_class: str = SEQUENCES,
    device: str = "meta",
) -> nn.Module:
    """Build the model that `load_backbone` would load, without reading its weights.

    Parameters have no values on the meta device, and random ones on any other.

    Raises:
        BadRequestError: the configuration cannot be read, or an argument does not fit it.
    """
    resolved = resolve_for_planning(source)
    chosen = choose_pooling(resolved, pooling, num_labels, auto_class)
    with reading_model(source), torch.random.fork_rng(), torch.device(device):
        config = read_config(resolved)
        check_architecture(config, auto_class, source)
        if (classifier := project_classifier(config, chosen, auto_class)) is not None:
            encoder = transformers.AutoModel.from_config(config, **without_pooler(config))
            model: nn.Module = classifier(encoder, num_labels)
        else:
            if auto_class != CAUSAL:
                config.num_labels = num_labels
            model = getattr(transformers, auto_class).from_config(config)
    for part in (config, config.get_text_config()):
        # Decoders need a padding token to classify. Which one changes neither shapes nor speed.
        if getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
    return model.requires_grad_(False).eval()
