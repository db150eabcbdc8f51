"""A pack: the stacks of its slots, put into the model for the time of a pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.packs.flat_rows import FlatRows, Placed
from adapad_ray.adapters.packs.packed_head import PackedHead
from adapad_ray.adapters.packs.packed_linear import PackedLinear, PassRows, live_stacks
from adapad_ray.adapters.packs.published import FrozenColumns, PublishedRow, frozen_ranks
from adapad_ray.adapters.packs.slot import NotPackableError, Slot


class Pack:
    """Slots that share a pass. What learns in them stands in `values` from now on, into which their parameters are
    views, so everything that reads or writes parameters sees the current values.

    A pack is for one structure: after growth, or when a slot leaves, make another. Outside `passing` the model is as it
    was before.

    Args:
        slots: lanes of one cell or of several, whose models are one or twins with the same frozen weights; no
            parameter learns in two of them.
        published: the published values of every cell, shared with other packs of the same cells.

    Raises:
        NotPackableError: the slots cannot share a pass.
    """

    def __init__(self, slots: Sequence[Slot], published: Mapping[AdaptedModel, PublishedRow] | None = None) -> None:
        self.slots = tuple(slots)
        self.model = slots[0].adapted.model
        if any(not _has_weights_of(self.model, slot.adapted.model) for slot in slots):
            raise NotPackableError("the slots of a pack must be adapted from the same frozen weights")
        self.rows = FlatRows(len(slots))
        self._attentions = _attentions(self.model)
        self._pass = PassRows(len(slots), expands=bool(self._attentions))
        self._packed: dict[str, nn.Module] = {}
        if published is None:
            published = {adapted: PublishedRow(adapted) for adapted in {slot.adapted: None for slot in slots}}
        self._add_layers(published)
        self._add_heads()
        self._allocate()
        self._places = [(self._parent(path), path.rpartition(".")[2], module) for path, module in self._packed.items()]

    def _add_layers(self, published: Mapping[AdaptedModel, PublishedRow]) -> None:
        layers = {name: layer for slot in self.slots for name, layer in slot.adapted.layers.items()}
        live = {
            name: live_stacks(
                [
                    list(slot.adapted.layers[name].live(slot.lane)) if name in slot.adapted.layers else []
                    for slot in self.slots
                ],
                self.rows,
            )
            for name in layers
        }
        acting = [name for name in layers if live[name] or any(frozen_ranks(self.slots, name))]
        sizes = {name: (layers[name].shape.in_features, layers[name].shape.out_features) for name in acting}
        self.frozen = FrozenColumns(self.slots, sizes, published)
        for name, layer in layers.items():
            own = [slot.adapted.layers.get(name) for slot in self.slots]
            scales = [0.0 if o is None else o.scale(s.lane) for o, s in zip(own, self.slots, strict=True)]
            self._packed[name] = (
                PackedLinear(
                    name,
                    layer.linear,
                    live[name],
                    self.frozen.of(name),
                    torch.tensor(scales, dtype=torch.float64).to(layer.linear.device, non_blocking=True),
                    [
                        0.0 if o is None or not o.acts_in(s.lane) else o.dropout
                        for o, s in zip(own, self.slots, strict=True)
                    ],
                    self._pass,
                )
                if name in acting
                else layer.base
            )

    def _add_heads(self) -> None:
        for path in self.slots[0].adapted.heads:
            copies = [slot.adapted.heads[path].copies[str(slot.lane.index)] for slot in self.slots]
            self._packed[path] = PackedHead(path, copies, self.rows, self._pass)

    def _allocate(self) -> None:
        parameters = [placed.parameter for placed in self.rows.placed]
        if not parameters:
            raise NotPackableError("nothing learns in these slots")
        if len(set(parameters)) < len(parameters):
            raise NotPackableError("a parameter learns in two slots of one pack")
        if len({(p.dtype, p.device) for p in parameters}) > 1:
            raise NotPackableError("what learns in a pack must have one dtype and one device")
        self.rows.allocate(parameters[0])
        self.rows.link_gradients()

    def _parent(self, path: str) -> dict[str, nn.Module | None]:
        return self.model.get_submodule(path.rpartition(".")[0])._modules

    @property
    def parameters(self) -> Sequence[Placed]:
        """Every learning parameter, and where it stands."""
        return self.rows.placed

    @contextmanager
    def passing(
        self, rows: int, generators: Sequence[torch.Generator | None] | None = None, *, adds: bool = False
    ) -> Iterator[None]:
        """Put the stacks into the model while the context is open: the forward pass and its backward pass.

        Args:
            rows: examples of all slots together.
            generators: draw the dropout of each slot.
            adds: whether gradients add to those of the pass before, which are dropped otherwise.
        """
        before = [parent[key] for parent, key, _ in self._places]
        if not adds:
            self.rows.gradients.zero_()
        self._pass.count = rows
        self._pass.generators = generators or [None] * len(self.slots)
        for parent, key, module in self._places:
            parent[key] = module
        for attention in self._attentions:
            _relative_positions().use_slots(attention, len(self.slots))
        try:
            yield
        finally:
            for attention in self._attentions:
                _relative_positions().use_one(attention)
            for (parent, key, _), ordinary in zip(self._places, before, strict=True):
                parent[key] = ordinary

    def losses(self, per_example: Tensor, batch_size: int) -> Tensor:
        """Return the mean loss of every slot, `[slots]`, from that of every example."""
        return per_example.view(len(self.slots), -1).sum(dim=1) / batch_size


def _has_weights_of(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models are one, or twins; the first frozen tensor, an embedding, tells."""
    if other is model:
        return True
    first, second = (next((p for p in m.parameters() if not p.requires_grad), None) for m in (model, other))
    return first is not None and first is second


def _attentions(model: nn.Module) -> list[nn.Module]:
    if "transformers.models.deberta_v2.modeling_deberta_v2" not in sys.modules:  # so the model has none
        return []
    return [module for module in model.modules() if _relative_positions().reads_relative_positions(module)]


def _relative_positions() -> ModuleType:
    from adapad_ray.adapters.packs import relative_positions

    return relative_positions
