"""A backbone with adapters attached: which lane acts, which parameters learn, what is published."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapad_ray.adapters.families import PLAIN, Block, Family
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.linear import AdaptedLinear
from adapad_ray.budget import ModuleShape


class LaneHead(nn.Module):
    """One copy of a head module per lane.

    Copies are fp32 whatever the backbone's dtype, as adapters are: what learns is kept in full precision.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.copies = nn.ModuleDict()
        self._lane: Lane = Lane.prefix(0)

    def add(self, index: int, source: int | None) -> nn.Module:
        """Gives lane `index` a trainable copy of lane `source`'s head, or of the initial head."""
        origin = self.base if source is None else self.copies[str(source)]
        module = copy.deepcopy(origin)
        module = module.to(torch.promote_types(next(module.parameters()).dtype, torch.float32)).requires_grad_(True)
        self.copies[str(index)] = module
        return module

    def use(self, lane: Lane) -> None:
        """Chooses whose copy acts in the coming forward passes."""
        self._lane = lane

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Maps `[batch, …]` through the copy of the lane in use."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.copies[str(self._lane.index)](x, *args, **kwargs)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Structure:
    """Blocks (their sizes) and reserves per module, and the lanes that have a head."""

    blocks: dict[str, list[int]]
    reserves: list[str]
    heads: list[int]


class AdaptedModel:
    """Adapters on the target modules of a frozen backbone; `detach` gives the backbone back as it was.

    Attached and untouched, the outputs equal the backbone's: every block starts as no update. `scales` gives the
    constant factor of each module's update, 1 where it is silent.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[ModuleShape],
        head_modules: Sequence[str],
        *,
        scales: Mapping[str, float] | None = None,
        family: Family = PLAIN,
        dropout: float = 0.0,
    ) -> None:
        self.model = model
        self.family = family
        self.layers: dict[str, AdaptedLinear] = {}
        self.heads: dict[str, LaneHead] = {}
        for shape in modules:
            layer = AdaptedLinear(model.get_submodule(shape.name), shape, (scales or {}).get(shape.name, 1.0))  # type: ignore[arg-type]
            layer.dropout = dropout
            self.layers[shape.name] = layer
            model.set_submodule(shape.name, layer)
        for name in head_modules:
            self.heads[name] = LaneHead(model.get_submodule(name))
            model.set_submodule(name, self.heads[name])

    def detach(self) -> None:
        """Puts the original modules back."""
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)
        for name, head in self.heads.items():
            self.model.set_submodule(name, head.base)

    @property
    def blocks(self) -> int:
        """Largest number of active blocks of any module."""
        return max((len(layer.blocks) for layer in self.layers.values()), default=0)

    @property
    def ranks(self) -> dict[str, int]:
        """Active components per module."""
        return {name: layer.rank for name, layer in self.layers.items()}

    def add_block(self, module: str, size: int, generator: torch.Generator) -> Block:
        """Activates a new block of `size` components on `module`."""
        block = self._new_block(module, size, generator)
        self.layers[module].blocks.append(block)
        return block

    def add_reserve(self, module: str, generator: torch.Generator) -> Block:
        """Gives `module` a new one-component reserve, which acts in the reserve lane only."""
        block = self._new_block(module, 1, generator)
        block.hold_back()
        self.layers[module].reserve = block
        return block

    def activate_reserve(self, module: str) -> Block:
        """Turns the reserve of `module`, as trained so far, into its next component."""
        layer = self.layers[module]
        block = layer.reserve
        if block is None:
            raise ValueError(f"module {module} has no reserve to activate")
        block.release()
        layer.reserve = None
        layer.blocks.append(block)
        return block

    def _new_block(self, module: str, size: int, generator: torch.Generator) -> Block:
        layer = self.layers[module]
        weight = layer.base.weight
        # Components learn in fp32 at least, whatever the backbone's dtype.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return self.family.block(layer.shape, size, generator).to(weight.device, dtype)

    def add_head(self, index: int, source: int | None = None) -> list[nn.Module]:
        """Gives lane `index` its own trainable head, copied from lane `source` (or the initial one)."""
        return [head.add(index, source) for head in self.heads.values()]

    def drop_head(self, index: int) -> list[nn.Parameter]:
        """Forgets the head of a lane that has ended; returns its parameters."""
        gone = [p for head in self.heads.values() for p in head.copies[str(index)].parameters()]
        for head in self.heads.values():
            del head.copies[str(index)]
        return gone

    def drop_reserve(self, module: str) -> list[nn.Parameter]:
        """Discards the reserve of `module`; returns its parameters."""
        reserve = self.layers[module].reserve
        if reserve is None:
            raise ValueError(f"module {module} has no reserve to discard")
        self.layers[module].reserve = None
        return list(reserve.parameters())

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        """Chooses what acts, learns and classifies in the coming forward passes."""
        for layer in self.layers.values():
            layer.use(lane, generator)
        for head in self.heads.values():
            head.use(lane)

    def parameters(self, lane: Lane) -> list[nn.Parameter]:
        """Parameters that learn in `lane`, its head included, in a fixed order."""
        found: list[nn.Parameter] = []
        for layer in self.layers.values():
            for block in self.live_blocks(layer, lane):
                found.extend(block.parameters())
        for head in self.heads.values():
            found.extend(head.copies[str(lane.index)].parameters())
        return found

    @staticmethod
    def live_blocks(layer: AdaptedLinear, lane: Lane) -> Iterator[Block]:
        """Blocks of one layer that learn in `lane`."""
        active = layer.active()
        for k in lane.live:
            if k <= len(active):
                yield active[k - 1]
        if lane.reserve and layer.reserve is not None:
            yield layer.reserve

    def publish(self, blocks: Sequence[int] | None = None) -> None:
        """Makes live values visible to the other lanes: all active blocks, or the numbers given."""
        for layer in self.layers.values():
            for k, block in enumerate(layer.active(), start=1):
                if blocks is None or k in blocks:
                    block.publish()

    def modules_of(self, k: int) -> tuple[str, ...]:
        """Modules that have an active block k, in the model's order."""
        return tuple(name for name, layer in self.layers.items() if len(layer.blocks) >= k)

    @torch.no_grad()
    def estimate(self, k: int) -> Tensor:
        """Live values of block k on all modules that have it, in one flat tensor: a, then b, module by module."""
        vectors = [v for name in self.modules_of(k) for v in self.layers[name].active()[k - 1].vectors()]
        return torch.cat([v.flatten() for v in vectors])

    @torch.no_grad()
    def read_estimate(self, k: int, estimate: Tensor, modules: Sequence[str]) -> float:
        """Makes an `estimate` of block k on `modules` the published one; returns how far it has moved.

        The movement is the Euclidean distance to the estimate read before, relative to the new one's length: the
        deflation error that the lanes above k have worked with.
        """
        published = [b for name in modules for b in self.layers[name].active()[k - 1].published()]
        old = torch.cat([b.flatten() for b in published])
        new = estimate.to(old)
        parts = torch.split(new, [b.numel() for b in published])
        torch._foreach_copy_(published, [part.view_as(b) for part, b in zip(parts, published, strict=True)])
        return float((new - old).norm() / new.norm().clamp(min=torch.finfo(new.dtype).tiny))

    def head_parameters(self) -> int:
        """Parameters of one task head."""
        return sum(p.numel() for head in self.heads.values() for p in head.base.parameters())

    def adapter_parameters(self) -> int:
        """Adapter parameters in memory, reserves included."""
        total = 0
        for layer in self.layers.values():
            reserve = [layer.reserve] if layer.reserve is not None else []
            total += sum(p.numel() for block in (*layer.active(), *reserve) for p in block.parameters())
        return total

    @property
    def scales(self) -> dict[str, float]:
        """Factor of every module's update."""
        return {name: layer.scaling for name, layer in self.layers.items()}

    def factors(self, lane: Lane) -> dict[str, tuple[Tensor, Tensor]]:
        """Module → `(A [rank, d_in], B [d_out, rank])` of what is deployed where `lane` is, the scale folded into B;
        modules of rank 0 are absent."""
        found = {name: layer.vectors(lane) for name, layer in self.layers.items()}
        return {name: (a, b.T * self.layers[name].scale(lane)) for name, (a, b) in found.items() if a.shape[0]}

    def magnitudes(self, lane: Lane) -> dict[str, Tensor]:
        """Module → length `[d_out]` of every row of the adapted weight, where such lengths are trained (DoRA)."""
        return {}

    def active_parameters(self) -> int:
        """Adapter parameters that will be deployed as things stand: reserves apart."""
        return self.deployed_parameters(Lane.prefix(self.blocks))

    def deployed_parameters(self, lane: Lane) -> int:
        """Adapter parameters that are deployed where `lane` is, as things stand: what the budget is charged, in the
        family's own form."""
        return sum(
            block.rank * self.family.cost(layer.shape)
            for layer in self.layers.values()
            for k, block in enumerate(layer.active(), start=1)
            if lane.acts(k)
        )

    def acting_parameters(self, lane: Lane) -> int:
        """Adapter parameters that act in `lane`, in the plain (factored) form in which they are computed."""
        total = 0
        for layer in self.layers.values():
            columns = sum(block.size for k, block in enumerate(layer.active(), start=1) if lane.acts(k))
            columns += int(lane.reserve and layer.reserve is not None)
            total += columns * layer.shape.component_cost
        return total

    def state(self) -> dict[str, Tensor]:
        """Every adapter and head tensor by a stable name, published values included."""
        tensors: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            for k, block in enumerate(layer.active(), start=1):
                tensors |= {f"{name}|{k}|{key}": value for key, value in block.state_dict().items()}
            if layer.reserve is not None:
                tensors |= {f"{name}|{RESERVE}|{key}": value for key, value in layer.reserve.state_dict().items()}
        for name, head in self.heads.items():
            tensors |= {f"{name}|head|{key}": value for key, value in head.copies.state_dict().items()}
        return tensors

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every live parameter under the name it has in `state`."""
        named: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            for k, block in enumerate(layer.active(), start=1):
                named |= {f"{name}|{k}|{key}": value for key, value in block.named_parameters()}
            if layer.reserve is not None:
                named |= {f"{name}|{RESERVE}|{key}": value for key, value in layer.reserve.named_parameters()}
        for name, head in self.heads.items():
            named |= {f"{name}|head|{key}": value for key, value in head.copies.named_parameters()}
        return named

    def structure(self) -> Structure:
        """What there is, without the values: enough to rebuild the model for `load_state`."""
        return Structure(
            blocks={name: [block.size for block in layer.active()] for name, layer in self.layers.items()},
            reserves=[name for name, layer in self.layers.items() if layer.reserve is not None],
            heads=sorted({int(index) for head in self.heads.values() for index in head.copies}),
        )

    def rebuild(self, structure: Structure) -> None:
        """Creates the blocks, reserves and heads of `structure`; their values come from `load_state`."""
        scratch = torch.Generator().manual_seed(0)
        for name, layer in self.layers.items():
            layer.blocks = nn.ModuleList()
            layer.reserve = None
            for size in structure.blocks[name]:
                self.add_block(name, size, scratch)
            if name in structure.reserves:
                self.add_reserve(name, scratch)
        for head in self.heads.values():
            head.copies = nn.ModuleDict()
            for index in structure.heads:
                head.add(index, None)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], *, partial: bool = False) -> None:
        """Restores the values that `state` gave, all or a part of them, into a model of the same structure."""
        own = self.state()
        wrong = tensors.keys() - own.keys() if partial else own.keys() ^ tensors.keys()
        if wrong:
            raise ValueError(f"saved state does not fit this model: {sorted(wrong)[:3]} …")
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
