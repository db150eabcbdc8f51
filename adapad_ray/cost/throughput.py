"""Measures how fast this machine trains a model: on the model if it is small enough, else on a matrix product."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapad_ray.accelerator import cpu_threads
from adapad_ray.cost.gpu_specs import assumed_rate
from adapad_ray.frozen_linear.mixed import use_bf16_products
from adapad_ray.methods import METHODS, CellContext
from adapad_ray.models.backbone import parse_dtype
from adapad_ray.models.shape_pass import ExpertShapes, flop_counter
from adapad_ray.models.target_modules import target_modules
from adapad_ray.sweep.inputs import SweepInputs
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import TYPES, Split, TaskData
from adapad_ray.training.batches import Batches, epoch_batches
from adapad_ray.training.cell import shape_inputs
from adapad_ray.training.passes.lane_passes import DivergedError
from adapad_ray.training.passes.row_layout import rows_of
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

LARGEST_MEASURED = 300_000_000
"""Parameters of the largest backbone that is built to be timed: about 1.2 GB in fp32."""
LONGEST_PASS_SECONDS = 5.0
"""A backbone is not timed if one forward pass over a batch is expected to take longer."""
MEASURED_SECONDS = 2.0
"""No further step is timed after this time."""
MEASURED_STEPS = 8
"""Most optimizer steps that are timed."""


@dataclass(frozen=True)
class Throughput:
    """Floating-point operations per second of one worker, and how they were measured."""

    flops_per_second: float
    measured: bool
    """Whether training passes of this model were timed; else a matrix product was, or nothing."""
    basis: str
    """The rate and what was timed, for messages: `31.4 GFLOP/s of … on 2 CPU threads of this machine`."""


def training_throughput(spec: SweepSpec, inputs: SweepInputs, flops_per_token: float) -> Throughput:
    """Times training passes of the model on its own data, with as many threads as a worker has.

    The weights are random, which takes the same time as real ones. A matrix product is timed instead if the model is
    too large for this machine or its loss with random weights is not finite, where the rate is optimistic. If the sweep
    requests GPUs that this machine lacks, nothing is timed: `gpu_specs` has a rate.
    """
    threads = max(1, int(spec.resources.cpus_per_worker))
    device = "cuda" if spec.resources.gpus_per_worker and torch.cuda.is_available() else "cpu"
    hardware = "the GPU" if device == "cuda" else f"{threads} CPU thread{'s' * (threads > 1)}"
    hardware += " of this machine"
    if spec.resources.gpus_per_worker and device == "cpu":
        rate, words = assumed_rate(spec.resources.accelerator_type, spec.dtype, inputs.precision)
        return Throughput(rate, False, f"{words} (assumed, because this machine has no GPU; small models take longer)")
    with cpu_threads(threads):
        product = _product_rate(device)
        of_product = f"{product / 1e9:,.0f} GFLOP/s of a matrix product on {hardware}, because"
        tokens = tokens_per_step(inputs.data.splits["train"], spec.training)
        seconds = 2 * flops_per_token * tokens / product
        if inputs.backbone_parameters > LARGEST_MEASURED or seconds > LONGEST_PASS_SECONDS:
            return Throughput(product, False, f"{of_product} the model is too large")
        try:
            rate = _pass_rate(spec, inputs, flops_per_token, device)
        except DivergedError as error:  # those of the model may not
            return Throughput(product, False, f"{of_product} random weights diverge ({error})")
    basis = f"{rate / 1e9:,.1f} GFLOP/s of training passes of this model, timed on {hardware}"
    return Throughput(rate, True, basis)


def expected_flops_per_token(model: nn.Module, data: TaskData) -> float:
    """Counts the floating-point operations of a forward pass per padded token, on the meta device.

    Fake tensors have no values. Some models read values of their input, but not while they are traced, and they take
    fake tensors for tracing. Attention is counted; torch does not count the fused kernel that a cell uses on CPU.
    """
    split = data.splits["train"]
    batch = split.batch(np.arange(min(8, len(split))), pad_token_id=0)
    _, padded = split.size_of(batch)
    device = next(model.parameters()).device
    shapes_only, counter = FakeTensorMode(allow_non_fake_inputs=True), flop_counter()
    with torch.inference_mode(), shapes_only, ExpertShapes(), counter:  # innermost, so it sees operations first
        model(**{name: value.to(device) for name, value in shape_inputs(batch).items()})
    return float(counter.get_total_flops() / padded)


def tokens_per_step(split: Split, settings: TrainingSettings) -> float:
    """Padded tokens of one batch, mean over the first epoch."""
    lengths = split.lengths
    batches = epoch_batches(0, 0, lengths, settings.batch_size, group_by_length=settings.group_by_length)
    return sum(_padded_tokens(lengths[rows], settings) for rows in batches) / len(batches)


def _padded_tokens(lengths: np.ndarray, settings: TrainingSettings) -> int:
    width = int(lengths.max())
    return width * (len(rows_of(lengths, width)) if settings.pack_sequences else len(lengths))


def _pass_rate(spec: SweepSpec, inputs: SweepInputs, flops_per_token: float, device: str) -> float:
    """FLOPs per second: the median over a few optimizer steps of a LoRA of rank 1, which cost what a lane's do."""
    model = _with_random_weights(spec, inputs).to(device)
    modules = target_modules(model, spec.target_modules)
    lora = METHODS["lora"]
    context = CellContext(modules, sum(m.component_cost for m in modules), total_steps=10_000, seed=0)
    method = lora(lora.Config(), context)
    adapted = method.adapt(model, ())
    batches = Batches(inputs.data.splits["train"], spec.training, seed=0, pad_token_id=0, device=device)
    trainer = Trainer(method, batches, spec.training, total_steps=context.total_steps, loss=inputs.data.loss)
    trainer.start()
    trainer.run(stop_at=1)  # warm-up: the first step is slower
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < MEASURED_STEPS and time.perf_counter() - began < MEASURED_SECONDS:
        tokens, start = trainer.record.work.padded_tokens, time.perf_counter()
        trainer.run(stop_at=trainer.step + 1)
        tokens = trainer.record.work.padded_tokens - tokens
        flops = tokens * (method.plan().backbone_passes * flops_per_token + 6.0 * adapted.active_parameters())
        rates.append(flops / (time.perf_counter() - start))
    return statistics.median(rates)


def _with_random_weights(spec: SweepSpec, inputs: SweepInputs) -> nn.Module:
    kind = TYPES[inputs.data.type]
    model = kind.skeleton(spec.model, inputs.data, pooling=spec.pooling, device="cpu")
    model = model.to(parse_dtype(spec.dtype))
    if inputs.precision == "mixed":
        use_bf16_products(model)
    return model


def _product_rate(device: str) -> float:
    """FLOPs per second: the best of ten products of square matrices, larger on a GPU to keep it busy."""
    size = 4096 if device == "cuda" else 512
    a = torch.rand(size, size, device=device)
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
