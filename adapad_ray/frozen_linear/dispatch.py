"""Which module classes can carry an adapter, and the form in which each stores its weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.base import FrozenLinear
from adapad_ray.frozen_linear.dense import DenseLinear, TransposedLinear
from adapad_ray.frozen_linear.mixed import MixedDense, MixedTransposed
from adapad_ray.frozen_linear.quantized import EightBitLinear, FourBitLinear, TensorLinear

FORMS: Mapping[str, type[FrozenLinear]] = {
    "torch.nn.modules.linear.Linear": DenseLinear,
    "transformers.models.falcon.modeling_falcon.FalconLinear": DenseLinear,
    "transformers.pytorch_utils.Conv1D": TransposedLinear,
    "adapad_ray.frozen_linear.mixed.MixedLinear": MixedDense,
    "adapad_ray.frozen_linear.mixed.MixedConv1D": MixedTransposed,
    "bitsandbytes.nn.modules.Linear4bit": FourBitLinear,
    "bitsandbytes.nn.modules.Linear8bitLt": EightBitLinear,
    "torchao.quantization.Int8Tensor": TensorLinear,
    "torchao.quantization.Float8Tensor": TensorLinear,
}
"""Full class name → form; of a module, or of the weight of an ordinary linear layer. Names, so that no optional library
is imported.

Classes must match exactly. A subclass of `nn.Linear` may compute something else, and `nn.MultiheadAttention` reads the
weight of its `NonDynamicallyQuantizableLinear` without calling it, so an adapter there would not act. A subclass that
computes W₀x + bias and nothing else gets an entry: FalconLinear rounds between the product and the bias.
"""


def frozen_linear(module: nn.Module, path: str) -> FrozenLinear:
    """Return the frozen layer that `module` is; `path` names it in errors.

    Raises:
        BadRequestError: the module's class, or that of its weight, is not supported.
    """
    form = _form(module)
    if form is not None:
        return form(module)
    what = type(module).__name__
    if _class_name(module) in FORMS:
        what += f" with a weight of class {type(module.weight).__name__}"
    supported = ", ".join(name.rpartition(".")[2] for name in FORMS if ".mixed." not in name)
    raise BadRequestError(
        f"module {path} is of class {what}, which cannot carry an adapter (supported are {supported}): choose "
        "target_modules without it"
    )


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies its input by matrices of its own, in a supported class or not.

    True for every class of `FORMS`, subclasses of `nn.Linear`, modules with `in_features` and `out_features` (as
    quantised layers have them), and stacks of matrices (as mixtures of experts have them).
    """
    if _class_name(module) in FORMS or isinstance(module, nn.Linear):
        return True
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return True
    return not isinstance(module, _ConvNd) and any(p.ndim == 3 for p in module.parameters(recurse=False))


def is_supported(module: nn.Module) -> bool:
    """Whether `frozen_linear` accepts `module`."""
    return _form(module) is not None


def is_part_of_one_model(module: nn.Module) -> bool:
    """Whether an unsupported module has a class of its model's own, as stacks of experts and some routers have."""
    stacks = not hasattr(module, "in_features") and any(p.ndim == 3 for p in module.parameters(recurse=False))
    return not is_supported(module) and (stacks or type(module).__module__.startswith("transformers.models."))


def _form(module: nn.Module) -> type[FrozenLinear] | None:
    form = FORMS.get(_class_name(module))
    if form is None or form.accepts(module):
        return form
    return FORMS.get(_class_name(module.weight))


def _class_name(instance: object) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
