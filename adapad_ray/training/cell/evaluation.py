"""Forward passes and generation of a trained model over whole splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig

from adapad_ray.tasks import Split
from adapad_ray.tasks.logits import logits_of
from adapad_ray.tasks.losses import Loss


@dataclass(frozen=True)
class ModelPasses:
    """A trained model as task types evaluate it; batches hold examples of similar length."""

    model: nn.Module
    batch_size: int
    pad_token_id: int
    device: torch.device | str = "cpu"
    tokenizer: Any = None

    @torch.inference_mode()
    def outputs(self, split: Split) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor], Any]]:
        """Rows, batch and output of the model, batch by batch; outputs are moved to the CPU in fp32."""
        for rows in split.evaluation_batches(self.batch_size):
            batch = split.batch(rows, self.pad_token_id)
            inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
            output = self.model(**inputs)
            for key, value in output.items():
                if isinstance(value, torch.Tensor):
                    output[key] = value.float().cpu()
            yield rows, batch, output

    @torch.inference_mode()
    def losses(self, split: Split, loss: Loss) -> np.ndarray:
        """The loss of every example, float64 `[examples]`; logits stay where the model is."""
        losses = np.empty(len(split))
        for rows in split.evaluation_batches(self.batch_size):
            batch = {key: value.to(self.device) for key, value in split.batch(rows, self.pad_token_id).items()}
            labels = batch.pop("labels")
            losses[rows] = loss(self.model(**batch), labels).double().cpu().numpy()
        return losses

    @torch.inference_mode()
    def generate(self, split: Split, max_new_tokens: int, ends: Sequence[int] = ()) -> list[str]:
        """The text that the model appends to every example's prompt by greedy decoding, in the split's order."""
        model: Any = self.model
        chosen = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=self.pad_token_id,
            eos_token_id=list(dict.fromkeys(t for t in (self.tokenizer.eos_token_id, *ends) if t is not None)) or None,
        )
        texts = [""] * len(split)
        for rows in split.evaluation_batches(self.batch_size):
            prompts = split.prompts(rows, self.pad_token_id)  # type: ignore[attr-defined]
            inputs = {key: value.to(self.device) for key, value in prompts.items()}
            tokens = model.generate(**inputs, generation_config=chosen)[:, inputs["input_ids"].shape[1] :]
            for row, text in zip(rows, self.tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                texts[row] = text
        return texts


def predict(
    model: nn.Module, split: Split, *, batch_size: int, pad_token_id: int, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Logits `float32 [n, outputs]` in the split's own order, for a model with one row of logits per example."""
    return logits_of(ModelPasses(model, batch_size, pad_token_id, device), split)
