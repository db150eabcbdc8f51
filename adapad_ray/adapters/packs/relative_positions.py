"""DeBERTa's attention in a pack: its relative positions go through adapted projections, so every slot has its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, scaled_size_sqrt


class PackedDisentangledAttention(DisentangledSelfAttention):  # type: ignore[misc]
    """The same for the examples of several slots, `[slots · batch, …]`.

    transformers repeats the projected positions for every example. Here each example takes those of its slot.
    """

    slots: int

    def disentangled_attention_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Any:
        """Return the scores content → position and position → content, `[slots · batch · heads, tokens, tokens]`."""
        span = self.pos_ebd_size
        embeddings = rel_embeddings[: 2 * span].unsqueeze(0)
        distance = relative_pos.to(query_layer.device, torch.long).view(*relative_pos.shape[-2:])
        scale = scaled_size_sqrt(query_layer, scale_factor).to(query_layer.dtype)
        if self.share_att_key:  # in the order of transformers, in which adapters draw their dropout
            queries, keys = self.query_proj(embeddings), self.key_proj(embeddings)
        else:
            keys = self.pos_key_proj(embeddings) if "c2p" in self.pos_att_type else None
            queries = self.pos_query_proj(embeddings) if "p2c" in self.pos_att_type else None
        score: Any = 0
        if "c2p" in self.pos_att_type:
            score = score + self._scores(query_layer, keys, (distance + span).clamp(0, 2 * span - 1)) / scale
        if "p2c" in self.pos_att_type:
            of_keys = self._scores(key_layer, queries, (span - distance).clamp(0, 2 * span - 1))
            score = score + of_keys.transpose(-1, -2) / scale
        return score

    def _scores(self, content: Tensor, positions: Tensor, index: Tensor) -> Tensor:
        """Products of contents with the positions at their distances.

        Args:
            content: `[slots · batch · heads, tokens, head size]`.
            positions: `[slots, positions, heads · head size]`; one entry where the projection is not adapted.
            index: `[tokens, tokens]`.
        """
        heads, size = self.num_attention_heads, content.shape[-1]
        of_slots = positions.view(len(positions), 1, -1, heads, size).permute(0, 1, 3, 4, 2)
        products = torch.matmul(content.view(self.slots, -1, heads, *content.shape[1:]), of_slots)
        taken = products.gather(-1, index.expand(*products.shape[:-1], index.shape[-1]))
        return taken.view(*content.shape[:-1], -1)


def use_slots(module: nn.Module, slots: int) -> None:
    """Make an attention module one of a pack, in place."""
    module.__class__ = PackedDisentangledAttention  # keeps hooks, names and references
    module.slots = slots  # type: ignore[assignment]


def use_one(module: nn.Module) -> None:
    """Undo `use_slots`."""
    module.__class__ = DisentangledSelfAttention
    del module.slots


def reads_relative_positions(module: nn.Module) -> bool:
    """Whether a module is an attention that `use_slots` is for."""
    return type(module) is DisentangledSelfAttention and bool(module.relative_attention)
