"""How a backbone's attention is computed: `attn_implementation`, as transformers names them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from adapad_ray.errors import BadRequestError

Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""`eager`: products and a softmax. `sdpa`: torch's fused kernels. `flex_attention`: torch's compiled one, without a
backward pass on CPUs. `flash_attention_2` and `_3`: the kernels of flash-attn, for half precision on GPUs."""

PACKAGES: Mapping[str, tuple[str, str]] = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""Module and name of the package of each that needs one."""
_FLAGS = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn", "flex": "_supports_flex_attn"}
"""First word of an implementation → the attribute by which a class of transformers says that it has it."""


def missing_attention(attention: str | None) -> tuple[str, ...]:
    """Return, as one sentence, that the package of an implementation is not installed; none where it is."""
    if attention is None or attention not in PACKAGES:
        return ()
    module, package = PACKAGES[attention]
    if importlib.util.find_spec(module) is not None:
        return ()
    return (f"attn_implementation {attention} needs {package}, which is not installed: install it, or use sdpa",)


def check_attention(model: nn.Module, attention: str | None, source: str) -> None:
    """Check that a model has an implementation.

    Args:
        model: with weights or on the meta device.
        source: the model, as the user named it.

    Raises:
        BadRequestError: its class has not.
    """
    if attention is None:
        return
    theirs: Any = model if hasattr(model, "_supports_sdpa") else model.get_submodule(str(model.base_model_prefix))
    flag = _FLAGS.get(attention.partition("_")[0])
    only = getattr(theirs, "_compatible_flash_implementations", None) if flag == _FLAGS["flash"] else None
    if (flag is None or getattr(theirs, flag, False)) and (only is None or attention in only):
        return
    able = ["eager", *(name for name, flag in _FLAGS.items() if name == "sdpa" and getattr(theirs, flag, False))]
    raise BadRequestError(
        f"attn_implementation is {attention}, which model {source!r}, a {type(theirs).__name__}, does not have: use "
        f"{' or '.join(able)}, or leave it out"
    )
