"""What a worker's device must hold: weights, adapters with their optimizer, and what a pass keeps for the way back.

Nothing is computed: shapes come from a pass on the meta device. CUDA's own memory and fragmentation are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.modeling_layers import GradientCheckpointingLayer

from adapad_ray.cost.gpu_specs import GPU_SPECS
from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear.dispatch import is_supported
from adapad_ray.frozen_linear.quantized import stored_bits
from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import CellContext
from adapad_ray.models.backbone import parse_dtype
from adapad_ray.models.shape_pass import ExpertShapes
from adapad_ray.models.target_modules import layer_prefixes, target_modules
from adapad_ray.sweep.inputs import SweepInputs
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.training.passes.token_losses import chunk_bytes, takes_chunks

QUANTIZED_BYTES: Mapping[str | None, float] = {"nf4": 0.5 + 4 / 64, "int8": 1.0, "fp8": 1.0}
"""Per weight of a linear layer of the repeated layers. nf4 has an fp32 scale for every 64 weights."""
USED = 0.9
"""Share of a GPU's memory that is counted on; CUDA's context and gaps between tensors take the rest (a project
default)."""
LARGE = 1_000_000_000
"""Parameters from which memory is estimated for CPUs too."""


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of one worker, at its peak."""

    weights: int
    trained: int
    """Values, gradients and Adam's moments of what trains at one time."""
    activations: int
    """Of a pass of the longest examples. Attention is counted as if its matrix was kept, which fused kernels avoid."""
    examples: int
    """Of that pass."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.activations

    def gpus(self, gigabytes: float) -> int:
        """GPUs of this size that would be needed to hold it."""
        return -(-self.total // int(USED * gigabytes * 1e9))


def worker_memory(spec: SweepSpec, inputs: SweepInputs, trained: int) -> WorkerMemory | None:
    """Return what a worker needs; None for a small model on a CPU, or one whose pass reads values.

    Args:
        trained: bytes of what trains, with gradients and optimizer.

    Raises:
        BadRequestError: the file names an accelerator with less memory.
    """
    if not spec.resources.gpus_per_worker and inputs.backbone_parameters < LARGE:
        return None
    training = spec.training
    examples = min(training.batch_size, training.micro_batch_size or training.batch_size)
    slots = spec.resources.slots_per_pass
    activations = None
    with suppress(RuntimeError, TypeError, NotImplementedError):  # a model that reads values of its input
        activations = _activations(spec, inputs, examples) * (slots if isinstance(slots, int) else 1)
    if activations is None:
        return None
    memory = WorkerMemory(_weights(spec, inputs), trained, activations, examples)
    _check(spec, memory)
    return memory


def _check(spec: SweepSpec, memory: WorkerMemory) -> None:
    resources = spec.resources
    gpu = GPU_SPECS.get(resources.accelerator_type or "")
    gigabytes = 0 if gpu is None else gpu.gigabytes * resources.gpus_per_worker
    if gigabytes and memory.total > gigabytes * 1e9:
        raise BadRequestError(
            f"a worker needs about {memory.total / 1e9:,.0f} GB of GPU memory ({in_words(memory)}), and "
            f"{resources.gpus_per_worker:g} {resources.accelerator_type} has {gigabytes:g}: {less(spec)}"
        )


def in_words(memory: WorkerMemory) -> str:
    """The parts, in GB."""
    return (
        f"weights {memory.weights / 1e9:,.1f}, adapters with gradients and optimizer {memory.trained / 1e9:,.1f}, "
        f"activations of {memory.examples} examples at most {memory.activations / 1e9:,.1f}"
    )


def less(spec: SweepSpec) -> str:
    """What would need less."""
    training = spec.training
    advice = [f"training.micro_batch_size below {training.micro_batch_size or training.batch_size}"]
    advice += ["training.gradient_checkpointing: true"] * (not training.gradient_checkpointing)
    if spec.quantization is None:
        advice += ["quantization: nf4"] + ["dtype: bfloat16"] * (spec.dtype == "float32")
    return f"less takes {', '.join(advice)}"


def _weights(spec: SweepSpec, inputs: SweepInputs) -> int:
    """Bytes of the frozen weights, with the copies of mixed products."""
    model, size = inputs.model, parse_dtype(spec.dtype).itemsize
    parameters = sum(p.numel() for p in model.parameters())
    linear = {path: m.get_parameter("weight").numel() for path, m in model.named_modules() if is_supported(m)}
    stored = stored_bits(model)
    if spec.quantization is None and stored is None:
        return int(size * parameters + (2 * sum(linear.values()) if inputs.precision == "mixed" else 0))
    layers = layer_prefixes(model)
    quantized = sum(weights for path, weights in linear.items() if path.startswith(layers))
    of_weight = QUANTIZED_BYTES["nf4" if stored == 4 else "int8"] if stored else QUANTIZED_BYTES[spec.quantization]
    return int(size * (parameters - quantized) + of_weight * quantized)


def _activations(spec: SweepSpec, inputs: SweepInputs, examples: int) -> int:
    """Bytes that a pass of LoRA on all target modules keeps for its backward pass, on the longest examples.

    Of logits that are computed in chunks, one chunk is counted.
    """
    model = copy.deepcopy(inputs.model).to(parse_dtype(spec.dtype))
    _attach_lora(spec, model)
    split = inputs.data.splits["train"]
    batch: dict[str, Any] = dict(split.batch(np.argsort(split.lengths, kind="stable")[-examples:], 0))
    labels, mode = batch.pop("labels").to("meta"), FakeTensorMode(allow_non_fake_inputs=True)
    in_chunks, chunk = takes_chunks(model, inputs.data.loss), 0
    entered: list[int] = []
    """Bytes of the states with which each layer that runs is called."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_pre_hook(lambda _, args: entered.append(sum(x.nbytes for x in args[:1])))
    if in_chunks:
        batch["logits_to_keep"] = batch["logits_to_keep"][-1:]
    with mode:
        fakes = [mode.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())]  # kept alive
        frozen = {_storage(fake) for fake in fakes}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if (storage := _storage(tensor)) not in frozen:
                kept[storage] = tensor  # alive, so that no other gets its address
            return tensor

        with ExpertShapes(), saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(**{name: value.to("meta") for name, value in batch.items()})
            if in_chunks:
                on_gpu = spec.resources.gpus_per_worker > 0
                chunk = chunk_bytes(labels.numel(), output.logits.shape[-1], on_gpu=on_gpu)
            else:
                inputs.data.loss(output, labels).sum()
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    if not (spec.training.gradient_checkpointing and entered):
        return total + chunk
    # Every layer keeps its input, and one of them everything.
    return sum(entered) + total // len(entered) + chunk


def _attach_lora(spec: SweepSpec, model: nn.Module) -> None:
    modules = target_modules(model, spec.target_modules)
    lora = METHODS["lora"]
    method = lora(lora.Config(), CellContext(modules, sum(m.component_cost for m in modules), total_steps=1, seed=0))
    adapted = method.adapt(model, ())
    method.build(torch.Generator())
    adapted.use(method.lanes(0)[0])


def _storage(tensor: Tensor) -> int:
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]
