"""A forward pass without arithmetic: whole numbers keep their values, floating-point tensors have shapes only.

`pass_shapes` finds the ids and positions that a model has no row for, at the cost of its Python code. The model may be
on the meta device or hold its weights, which are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from adapad_ray.frozen_linear.dispatch import frozen_linear, is_supported
from adapad_ray.frozen_linear.quantized import OpaqueLinear

_META, _CPU = torch.device("meta"), torch.device("cpu")


_EXPERTS = torch.ops.aten._grouped_mm
"""The product of tokens `[S, d_in]`, in the order of their experts, with the experts' matrices `[E, d_in, d_out]`."""


def flop_counter() -> FlopCounterMode:
    """Return a counter of floating-point operations that knows products of experts, which torch's own leaves out."""

    def flops(tokens: Any, matrices: Any, *_: Any, **__: Any) -> int:
        return 2 * int(tokens[-2]) * int(tokens[-1]) * int(matrices[-1])

    return FlopCounterMode(display=False, custom_mapping={_EXPERTS: flops})


class ExpertShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives products of experts their shape in every dtype; torch does so in bf16 alone. For tensors without values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation."""
        if func is _EXPERTS.default:
            return shape_of_experts(*args[:2])
        return func(*args, **(kwargs or {}))


def shape_of_experts(tokens: Tensor, matrices: Tensor) -> Tensor:
    """Return an empty product of experts, `[S, d_out]`."""
    return tokens.new_empty((tokens.shape[-2], matrices.shape[-1]))


class MissingRowError(IndexError):
    """An index is beyond a table of embeddings."""

    def __init__(self, table: str, rows: int, index: int) -> None:
        super().__init__(f"index {index} is beyond the {rows:,} rows of {table}")
        self.table, self.rows, self.index = table, rows, index


def pass_shapes(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Run the forward pass of `model` on `inputs`, whose whole numbers are on the CPU.

    Raises:
        MissingRowError: a token, a token type or a position has no row in its table of embeddings.
        RuntimeError: the pass depends on the value of a floating-point number, or lengths do not match.
        Exception: whatever else the model raises.
    """
    with torch.no_grad(), _plain_layers(model), _WholeNumbersOnly(model):
        model(**inputs)


@contextmanager
def _plain_layers(model: nn.Module) -> Iterator[None]:
    """Let quantised layers give shapes alone while the block runs.

    Those of bitsandbytes would move the scales of their weight to the device of their input, and so lose them.
    """
    forms = {path: frozen_linear(module, path) for path, module in model.named_modules() if is_supported(module)}
    quantised = [form.module for form in forms.values() if isinstance(form, OpaqueLinear)]
    before = [vars(module).copy() for module in quantised]
    for module in quantised:
        module.forward = partial(_shape_of_product, module.out_features)
    try:
        yield
    finally:
        for module, attributes in zip(quantised, before, strict=True):
            del module.forward
            vars(module).update(attributes)


def _shape_of_product(out_features: int, x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


class _WholeNumbersOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes whole numbers and booleans on the CPU, and of everything else the shape."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tables = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation."""
        kwargs = kwargs or {}
        for table, dimension, indices in _look_ups(func, args):
            self._check(table, dimension, indices)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool and not _known(args[0]):
            return False  # models ask whether there is an infinite number, or no padding at all
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if tensors and all(map(_known, tensors)):
            if not _makes_floats(func, args, kwargs):
                return func(*args, **_on(_CPU, kwargs))
        elif not tensors and not _makes_floats(func, args, kwargs):
            return func(*args, **_on(_CPU, kwargs))
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (_whole_indices(func, args), kwargs))
        if func is _EXPERTS.default:
            return shape_of_experts(*args[:2])
        return func(*args, **_on(_META, kwargs))

    def _check(self, table: Tensor, dimension: int, indices: Tensor) -> None:
        if not _known(indices) or indices.dtype == torch.bool or not indices.numel():
            return
        rows, low, high = table.shape[dimension], int(indices.min()), int(indices.max())
        if low < -rows or high >= rows:
            name = self._tables.get(id(table), "a table of numbers")
            raise MissingRowError(name, rows, low if high < rows else high)


def _look_ups(func: Any, args: Any) -> list[tuple[Tensor, int, Tensor]]:
    """Tables that an operation reads by indices: table, dimension, indices."""
    aten = torch.ops.aten
    if func is aten.embedding.default:
        return [(args[0], 0, args[1])]
    if func in (aten.gather.default, aten.index_select.default):
        return [(args[0], args[1], args[2])]
    if func is aten.index.Tensor and not any(index is not None and index.dtype == torch.bool for index in args[1]):
        return [(args[0], dimension, index) for dimension, index in enumerate(args[1]) if index is not None]
    return []


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
