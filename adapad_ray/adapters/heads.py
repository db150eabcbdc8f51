"""The task heads of a model in training: every lane trains a copy of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from adapad_ray.adapters.lane import Lane


class LaneHead(nn.Module):
    """One head module of the model, with a copy for each lane.

    Copies are fp32 at least, whatever the backbone's dtype, as adapters are.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.copies = nn.ModuleDict()
        self._lane: Lane = Lane.prefix(0)

    def add(self, index: int, source: int | None) -> nn.Module:
        """Give lane `index` a trainable copy of the head of lane `source`, or of the initial head."""
        origin = self.base if source is None else self.copies[str(source)]
        module = copy.deepcopy(origin)
        module = module.to(torch.promote_types(next(module.parameters()).dtype, torch.float32)).requires_grad_(True)
        self.copies[str(index)] = module
        return module

    def use(self, lane: Lane) -> None:
        """Select the lane whose copy computes the next forward passes."""
        self._lane = lane

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Map `[batch, …]` through the copy of the selected lane."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.copies[str(self._lane.index)](x, *args, **kwargs)  # type: ignore[no-any-return]


class LaneHeads(Mapping[str, LaneHead]):
    """All head modules of a model by their path; `detach` puts the original modules back."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._model = model
        self._heads: dict[str, LaneHead] = {}
        for path in paths:
            self._heads[path] = LaneHead(model.get_submodule(path))
            model.set_submodule(path, self._heads[path])

    def __getitem__(self, path: str) -> LaneHead:
        return self._heads[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    def detach(self) -> None:
        """Put the original modules back."""
        for path, head in self.items():
            self._model.set_submodule(path, head.base)

    def add(self, index: int, source: int | None = None) -> list[nn.Module]:
        """Give lane `index` a trainable copy of the head of lane `source`, or of the initial head."""
        return [head.add(index, source) for head in self.values()]

    def drop(self, index: int) -> list[nn.Parameter]:
        """Discard the copies of a lane that has ended and return their parameters."""
        dropped = self.parameters(index)
        for head in self.values():
            del head.copies[str(index)]
        return dropped

    def use(self, lane: Lane) -> None:
        """Select the lane whose copies compute the next forward passes."""
        for head in self.values():
            head.use(lane)

    def parameters(self, index: int) -> list[nn.Parameter]:
        """Return the parameters of the copies of lane `index`, in a fixed order."""
        return [p for head in self.values() for p in head.copies[str(index)].parameters()]

    @property
    def parameter_count(self) -> int:
        """Parameters of one copy of all heads."""
        return sum(p.numel() for head in self.values() for p in head.base.parameters())

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of the copies of lane `index` by their path in the model, as `classifier.weight`."""
        return {
            f"{path}.{key}": value
            for path, head in self.items()
            for key, value in head.copies[str(index)].state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return every tensor of every copy as `<path>|head|<lane>.<key>`."""
        return {
            f"{path}|head|{key}": value
            for path, head in self.items()
            for key, value in head.copies.state_dict().items()
        }

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return every trainable parameter under the name it has in `state`."""
        return {f"{path}|head|{key}": p for path, head in self.items() for key, p in head.copies.named_parameters()}

    def lanes(self) -> list[int]:
        """Return the lanes that have a copy, in ascending order."""
        return sorted({int(index) for head in self.values() for index in head.copies})

    def rebuild(self, lanes: Iterable[int]) -> None:
        """Replace all copies by new ones of the initial head, for `lanes`."""
        lanes = list(lanes)
        for head in self.values():
            head.copies = nn.ModuleDict()
            for index in lanes:
                head.add(index, None)
