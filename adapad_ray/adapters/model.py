"""A backbone with components on its linear layers: which there are, what they publish, what of them is deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.families import PLAIN, Block, Family, ProbeBlock
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.trainable_model import Structure, TrainableModel
from adapad_ray.budget import ModuleShape


class AdaptedModel(TrainableModel):
    """Adapters on the target modules of a frozen backbone.

    Directly after `__init__` the outputs are those of the backbone, because every block starts as no update.

    Args:
        model: the backbone; its target and head modules are replaced until `detach`.
        modules: the target modules.
        head_modules: paths of the task head's modules.
        scales: constant factor on each module's update; 1 for modules that it leaves out.
        family: how components are parametrised.
        dropout: dropout probability on the adapters' input.
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
        self.family = family
        self.probe: Callable[[ModuleShape, torch.Generator], Tensor] | None = None
        """The directions `[size, d_in]` of a module's probe (see `ProbeBlock`); None: reserves are components."""
        self.family_name = family.name
        self.layers: dict[str, AdaptedLinear] = {}
        for shape in modules:
            layer = AdaptedLinear(model.get_submodule(shape.name), shape, (scales or {}).get(shape.name, 1.0))
            layer.dropout = dropout
            self.layers[shape.name] = layer
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)
        self.fan_in_fan_out = any(layer.linear.fan_in_fan_out for layer in self.layers.values())
        super().__init__(model, head_modules)

    def detach(self) -> None:
        super().detach()
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)

    @property
    def blocks(self) -> int:
        return max((len(layer.blocks) for layer in self.layers.values()), default=0)

    @property
    def ranks(self) -> dict[str, int]:
        return {name: layer.rank for name, layer in self.layers.items()}

    @property
    def scales(self) -> dict[str, float]:
        return {name: layer.scaling for name, layer in self.layers.items()}

    def add_block(self, module: str, size: int, generator: torch.Generator) -> Block:
        """Activate a new block of `size` components on `module`."""
        block = self._new_block(module, size, generator)
        self.layers[module].blocks.append(block)
        return block

    def add_reserve(self, module: str, generator: torch.Generator) -> Block:
        """Give `module` a new reserve: one component that acts and learns in the reserve lane only, or a probe."""
        if self.probe is not None:
            shape = self.layers[module].shape
            block = self._placed(module, ProbeBlock(shape, self.probe(shape, generator)))
        else:
            block = self._new_block(module, 1, generator)
        block.hold_back()
        self.layers[module].reserve = block
        return block

    def activate_reserve(self, module: str) -> Block:
        """Make the reserve of `module`, as trained so far, its next active block."""
        block = self._take_reserve(module)
        block.release()
        self.layers[module].blocks.append(block)
        return block

    def drop_reserve(self, module: str) -> list[nn.Parameter]:
        """Discard the reserve of `module` and return its parameters."""
        return list(self._take_reserve(module).parameters())

    def _take_reserve(self, module: str) -> Block:
        layer = self.layers[module]
        block, layer.reserve = layer.reserve, None
        if block is None:
            raise ValueError(f"module {module} has no reserve")
        return block

    def _new_block(self, module: str, size: int, generator: torch.Generator) -> Block:
        return self._placed(module, self.family.block(self.layers[module].shape, size, generator))

    def _placed(self, module: str, block: Block) -> Block:
        """The block where its module computes. It learns in fp32 at least, whatever the backbone's dtype."""
        linear = self.layers[module].linear
        return block.to(linear.device, torch.promote_types(linear.dtype, torch.float32), non_blocking=True)

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        super().use(lane, generator)
        for layer in self.layers.values():
            layer.use(lane, generator)

    @contextmanager
    def constant(self) -> Iterator[None]:
        for layer in self.layers.values():
            layer.constants = {}
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.constants = None

    def learning(self, lane: Lane) -> list[nn.Parameter]:
        return [p for layer in self.layers.values() for block in layer.live(lane) for p in block.parameters()]

    def trained(self) -> dict[str, nn.Parameter]:
        return {f"{path}|{key}": p for path, block in self._blocks().items() for key, p in block.named_parameters()}

    def _blocks(self) -> dict[str, Block]:
        """Return every block as `<module>|<number>`, reserves as `<module>|-1`."""
        return {
            f"{name}|{number}": block
            for name, layer in self.layers.items()
            for number, block in layer.named_blocks(reserve=str(RESERVE)).items()
        }

    def publish(self, blocks: Sequence[int] | None = None) -> None:
        """Publish the live values of the numbered `blocks`, by default of all active ones."""
        for layer in self.layers.values():
            for k, block in enumerate(layer.active(), start=1):
                if blocks is None or k in blocks:
                    block.publish()

    def modules_of(self, k: int) -> tuple[str, ...]:
        """Return the modules that have an active block k, in the model's order."""
        return tuple(name for name, layer in self.layers.items() if len(layer.blocks) >= k)

    @torch.no_grad()
    def live_values(self, k: int) -> Tensor:
        """Return the live values of block k on all its modules as one flat tensor: a, then b, module by module."""
        vectors = [v for name in self.modules_of(k) for v in self.layers[name].active()[k - 1].vectors()]
        return torch.cat([v.flatten() for v in vectors])

    @torch.no_grad()
    def set_published(self, k: int, estimate: Tensor, modules: Sequence[str]) -> Tensor:
        """Make `estimate` the published value of block k on `modules`; return how far the value moved.

        The movement, a tensor `[]` on the device, is the Euclidean distance to the estimate read before, relative to
        the length of the new one: the deflation error with which the lanes above k have worked.
        """
        published = [v for name in modules for v in self.layers[name].active()[k - 1].published()]
        old = torch.cat([v.flatten() for v in published])
        new = estimate.to(old)
        parts = torch.split(new, [v.numel() for v in published])
        torch._foreach_copy_(published, [part.view_as(v) for part, v in zip(parts, published, strict=True)])
        movement: Tensor = (new - old).norm() / new.norm().clamp(min=torch.finfo(new.dtype).tiny)
        return movement

    def deployed_parameters(self, lane: Lane) -> int:
        return sum(
            block.rank * self.family.cost(layer.shape)
            for layer in self.layers.values()
            for k, block in enumerate(layer.active(), start=1)
            if lane.acts(k)
        )

    def acting_parameters(self, lane: Lane) -> int:
        total = 0
        for layer in self.layers.values():
            columns = sum(block.size for k, block in enumerate(layer.active(), start=1) if lane.acts(k))
            columns += layer.reserve.size if lane.reserve and layer.reserve is not None else 0
            total += columns * layer.shape.component_cost
        return total

    def factors(self, lane: Lane) -> dict[str, tuple[Tensor, Tensor]]:
        vectors = {name: layer.vectors(lane) for name, layer in self.layers.items()}
        return {name: (a, b.T * self.layers[name].scale(lane)) for name, (a, b) in vectors.items() if a.shape[0]}

    def compact(self, lane: Lane) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value for name, layer in self.layers.items() for key, value in layer.compact(lane).items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return every tensor of the components, published values included, and of the heads."""
        named = {f"{path}|{key}": v for path, block in self._blocks().items() for key, v in block.state_dict().items()}
        return named | self.heads.state()

    def load_state(self, tensors: dict[str, Tensor], *, partial: bool = False) -> None:
        super().load_state(tensors, partial=partial)
        for block in self._blocks().values():
            block.restored()

    def structure(self) -> Structure:
        return Structure(
            blocks={name: [block.size for block in layer.active()] for name, layer in self.layers.items()},
            reserves=[name for name, layer in self.layers.items() if layer.reserve is not None],
            heads=self.heads.lanes(),
        )

    def rebuild(self, structure: Structure) -> None:
        scratch = torch.Generator().manual_seed(0)
        for name, layer in self.layers.items():
            layer.blocks = nn.ModuleList()
            layer.reserve = None
            for size in structure.blocks[name]:
                self.add_block(name, size, scratch)
            if name in structure.reserves:
                self.add_reserve(name, scratch)
        super().rebuild(structure)
