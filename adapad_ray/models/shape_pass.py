"""A forward pass without arithmetic: whole numbers keep their values, floating-point tensors have shapes only.

It finds the ids and positions that a model has no row for, at the cost of its Python code. The model may be on the meta
device or hold its weights, which are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

_META, _CPU = torch.device("meta"), torch.device("cpu")


class MissingRowError(IndexError):
    """An index is beyond a table of embeddings."""

    def __init__(self, table: str, rows: int, index: int) -> None:
        super().__init__(f"index {index} is beyond the {rows:,} rows of {table}")
        self.table, self.rows, self.index = table, rows, index


def pass_shapes(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Run the forward pass of `model` on `inputs`, whose whole numbers are on the CPU.

    Raises:
        MissingRowError: a token, a token type or a position has no row in its table of embeddings.
        NotImplementedError: the pass depends on the value of a floating-point number.
        Exception: whatever the model raises.
    """
    with torch.no_grad(), _WholeNumbersOnly(model):
        model(**inputs)


class _WholeNumbersOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes whole numbers and booleans on the CPU, and of everything else the shape."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tables = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation."""
        kwargs = kwargs or {}
        if func is torch.ops.aten.embedding.default:
            self._check(args[0], args[1])
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if tensors and all(map(_known, tensors)):
            if not _makes_floats(func, args, kwargs):
                return func(*args, **_on(_CPU, kwargs))
        elif not tensors and not _makes_floats(func, args, kwargs):
            return func(*args, **_on(_CPU, kwargs))
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (_whole_indices(func, args), kwargs))
        return func(*args, **_on(_META, kwargs))

    def _check(self, table: Tensor, indices: Tensor) -> None:
        if not _known(indices) or not indices.numel():
            return
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= len(table):
            raise MissingRowError(self._tables.get(id(table), "an embedding"), len(table), low if low < 0 else high)


def _known(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and not tensor.is_floating_point() and not tensor.is_complex()


def _makes_floats(func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation on known numbers has floating-point results, by trying it on shapes."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (args, kwargs))
    try:
        results = func(*args, **_on(_META, kwargs))
    except (NotImplementedError, RuntimeError):  # its result's shape depends on values, as that of nonzero
        return False
    leaves = [leaf for leaf in tree_flatten(results)[0] if isinstance(leaf, Tensor)]
    return any(leaf.is_floating_point() or leaf.is_complex() for leaf in leaves)


def _whole_indices(func: Any, args: Any) -> Any:
    """Known masks as positions, because the shape of what a mask selects depends on its values."""
    if func is not torch.ops.aten.index.Tensor:
        return args
    indices: list[Tensor | None] = []
    for index in args[1]:
        if index is not None and index.dtype == torch.bool and _known(index):
            indices += index.nonzero(as_tuple=True)
        else:
            indices.append(index)
    return (args[0], indices)


def _on(device: torch.device, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": device} if kwargs.get("device") is not None else dict(kwargs)
