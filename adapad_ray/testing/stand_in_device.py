"""`meta` as a stand-in for an accelerator: it has no values, so whatever would wait for the device can be seen."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapad_ray.training import randomness, trainer

_WATCHED = ("adapad_ray/", "peft/", "transformers/", "torch/optim/")


class Watch(TorchDispatchMode):
    """Counts, by the line of code that causes them, waits for the device and operations that mix devices.

    A wait is a value that is read, a copy to the host, a copy to the device that blocks, or `nonzero`, the size of
    whose result the device decides. Numbers that are read are 0.5 or 1.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, options)) if isinstance(x, Tensor)]
        on_device = any(tensor.is_meta for tensor in tensors)
        target = options.get("device") or (args[0].device if name == "copy_" else None)
        blocking = not (options.get("non_blocking") or (name == "copy_" and True in args[2:]))
        if name in ("_local_scalar_dense", "nonzero") and on_device:
            self.wait()
            return _read(tensors[0]).item() if name == "_local_scalar_dense" else _read(tensors[0]).nonzero().to("meta")
        if name in ("_to_copy", "copy_") and target is not None:
            source, to_device = tensors[-1], torch.device(target).type == "meta"
            if source.is_meta != to_device and (source.is_meta or blocking):
                self.wait()
            if source.is_meta and not to_device:
                read = _read(source).to(options.get("dtype") or tensors[0].dtype)
                return args[0].copy_(read) if name == "copy_" else read
        elif len({tensor.device.type for tensor in tensors if tensor.dim()}) > 1:
            self.mixed[f"{name} in {_site()}"] += 1
        return func(*args, **options)

    def wait(self) -> None:
        """Counts a wait of the calling line."""
        self.waits[_site()] += 1


@contextmanager
def watched() -> Iterator[Watch]:
    """Counts within the context. What `meta` lacks is replaced: generators, `tolist`, a check of the fused AdamW."""
    watch, tolist, generator = Watch(), Tensor.tolist, randomness.generator

    def read(tensor: Tensor) -> Any:
        if tensor.is_meta:
            watch.wait()
        return tolist(_read(tensor) if tensor.is_meta else tensor)

    def draw(*parts: object, device: torch.device | str = "cpu") -> torch.Generator | None:
        return None if torch.device(device).type == "meta" else generator(*parts, device=device)

    with (
        patch.object(Tensor, "tolist", read),
        patch.object(trainer, "generator", draw),
        patch.object(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *args, **options: None),
        watch,
    ):
        yield watch


def _read(tensor: Tensor) -> Tensor:
    return torch.full(tensor.shape, 0.5 if tensor.is_floating_point() else 1, dtype=tensor.dtype)


def _site() -> str:
    own = (frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__)
    for frame in own:
        if any(part in frame.filename for part in _WATCHED):
            return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}"
    return "elsewhere"
