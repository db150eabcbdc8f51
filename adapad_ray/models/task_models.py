"""Task models that transformers does not have: each maps the states of a pretrained model to logits."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

LINEAR = "linear"
"""The model name of `LinearModel`. It goes with tasks of vectors and has no weights to load."""


class LinearModel(nn.Module):
    """One frozen linear layer of zeros: with adapters it is W = s · B A, the model of the linear theory (2605.10741).

    It has no head. Its layer is in a `ModuleList`, like repeated layers, so that `all-linear` selects it.
    """

    base_model_prefix = ""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig()
        self.layers = nn.ModuleList([nn.Linear(in_features, out_features, bias=False, dtype=dtype)])
        nn.init.zeros_(self.layers[0].weight)  # type: ignore[arg-type]

    def forward(self, inputs_embeds: torch.Tensor) -> SequenceClassifierOutput:
        """Return the outputs `[batch, d_out]` as `logits` for `inputs_embeds` `[batch, d_in]`."""
        x = inputs_embeds.to(next(self.parameters()).dtype)
        return SequenceClassifierOutput(logits=self.layers[0](x))


class MeanPooledClassifier(nn.Module):
    """Mean of the token states, then one linear layer: `logits = W · mean_t(h_t) + b` over non-padding tokens.

    The encoder is the attribute named by its own `base_model_prefix` (`bert` for BERT). Module paths are therefore
    those of transformers' sequence classifier, and an adapter exported from one fits the other.
    """

    config: Any
    base_model_prefix: str

    def __init__(self, encoder: transformers.PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.config = encoder.config
        self.config.num_labels = num_labels
        self.base_model_prefix = str(encoder.base_model_prefix)
        self.add_module(self.base_model_prefix, encoder)
        # OPT's smaller models project their states to the width of the embedding.
        width = getattr(self.config, "word_embed_proj_dim", self.config.hidden_size)
        self.classifier = nn.Linear(width, num_labels, dtype=next(encoder.parameters()).dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        num_labels: int = 2,
        dtype: str = "float32",
        id2label: dict[int, str] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Load a pretrained encoder with a fresh classifier, as PEFT's Auto classes ask for a base model.

        Args:
            source: a packaged name, a folder or a Hub name.
            num_labels: number of classes; 1 for a regression. `id2label` decides it, if that is given.
            dtype: as for `load_backbone`.
            id2label: names of the classes.
            kwargs: options of transformers, which are ignored.
        """
        from adapad_ray.models.loading.recipe import load_backbone

        count = num_labels if id2label is None else len(id2label)
        return _with_names(load_backbone(source, count, pooling="mean", dtype=dtype).model, id2label)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` for token ids `[batch, tokens]`, and the loss if `labels` are given."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= kwargs | {"return_dict": True}
        encoder = self.get_submodule(self.base_model_prefix)
        states = encoder(**{key: value for key, value in inputs.items() if value is not None}).last_hidden_state
        if attention_mask is None:
            pooled = states.mean(dim=1)
        else:
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        logits = self.classifier(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class ImagePrefixClassifier(nn.Module):
    """PaliGemma as a classifier of images: `logits = W · mean_t(h_t) + b` over the image's tokens.

    The vision tower's features take the place of text embeddings and attend to one another, as a prefix does. There is
    no text. Module paths are those of transformers' `PaliGemmaForConditionalGeneration`.
    """

    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, model: transformers.PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.config: Any = model.config
        self.config.num_labels = num_labels
        self.model: Any = model
        width = self.config.get_text_config().hidden_size
        self.classifier = nn.Linear(width, num_labels, dtype=next(model.parameters()).dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        num_labels: int = 2,
        dtype: str = "float32",
        id2label: dict[int, str] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Load a pretrained model with a fresh classifier, as PEFT's Auto classes ask for a base model.

        Args:
            source: a folder or a Hub name.
            num_labels: number of classes. `id2label` decides it, if that is given.
            dtype: as for `load_backbone`.
            id2label: names of the classes.
            kwargs: options of transformers, which are ignored.
        """
        from adapad_ray.models.loading.recipe import load_backbone

        count = num_labels if id2label is None else len(id2label)
        model = load_backbone(source, count, auto_class="AutoModelForImageClassification", dtype=dtype).model
        return _with_names(model, id2label)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> ImageClassifierOutput:
        """Return logits `[batch, num_labels]` for images `[batch, channels, height, width]`."""
        features = self.model.get_image_features(pixel_values).pooler_output
        prefix = torch.zeros(features.shape[:2], dtype=torch.long, device=features.device)
        states = self.model(inputs_embeds=features, token_type_ids=prefix, **kwargs).last_hidden_state
        return ImageClassifierOutput(logits=self.classifier(states.mean(dim=1)))


def _with_names(model: Any, id2label: dict[int, str] | None) -> nn.Module:
    if id2label is not None:
        model.config.id2label, model.config.label2id = id2label, {name: i for i, name in id2label.items()}
    named: nn.Module = model
    return named
