"""How fast this machine trains a model: measured on the model where it is small enough, else on a matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from adapad_ray.methods import METHODS, CellContext
from adapad_ray.models import LINEAR, linear_backbone, load_skeleton
from adapad_ray.models.target_modules import target_modules
from adapad_ray.sweep.planner import Grounds
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import TYPES, Split, TaskData
from adapad_ray.training.batches import Batches, epoch_batches
from adapad_ray.training.cell import FLOP_INPUTS
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

LARGEST_MEASURED = 300_000_000
"""Parameters of the largest backbone that is built in order to be timed: about a gigabyte in fp32."""
LONGEST_PASS_SECONDS = 5.0
MEASURED_SECONDS = 2.0
MEASURED_STEPS = 8


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per second of one worker, and how they were found."""

    flops_per_second: float
    measured: bool
    """Whether training passes of this model were timed."""
    basis: str
    """The rest of a sentence that says what was timed."""


def training_speed(spec: SweepSpec, grounds: Grounds, flops_per_token: float) -> Speed:
    """Times training passes of the model on its own data, with the threads that a worker has.

    The model has the architecture and random weights, which take the same time as real ones. Models that are too large
    for this machine, or are meant for GPUs that it lacks, are judged by the rate of a matrix product: optimistic there,
    and far too slow here.
    """
    threads = max(1, int(spec.resources.cpus_per_worker))
    device = "cuda" if spec.resources.gpus_per_worker and torch.cuda.is_available() else "cpu"
    place = "this machine's GPU" if device == "cuda" else f"{threads} CPU thread{'s' * (threads > 1)} here"
    with _threads(threads):
        product = _product_rate(device)
        if spec.resources.gpus_per_worker and device == "cpu":
            basis = f"{product / 1e9:,.0f} GFLOP/s of a matrix product on {place}; the GPUs it asks for are not here"
            return Speed(product, False, basis)
        tokens = tokens_per_step(grounds.data.splits["train"], spec.training)
        seconds = 2 * flops_per_token * tokens / product
        if grounds.backbone_parameters > LARGEST_MEASURED or seconds > LONGEST_PASS_SECONDS:
            basis = f"{product / 1e9:,.0f} GFLOP/s of a matrix product on {place}; the model is too large to time it"
            return Speed(product, False, basis)
        rate = _pass_rate(spec, grounds, flops_per_token, device)
    basis = f"{rate / 1e9:,.1f} GFLOP/s of training passes of this model, just timed on {place}"
    return Speed(rate, True, basis)


def expected_flops_per_token(model: nn.Module, data: TaskData) -> float:
    """Floating-point operations of a forward pass, per padded token, found on the meta device without computing any.

    Some models ask for values of their input, which are not there, but not where they see that they are being traced,
    as with these tensors. Attention counts, which torch does not see in the fused kernel that a cell uses on CPU.
    """
    split = data.splits["train"]
    batch = split.batch(np.arange(min(8, len(split))), pad_token_id=0)
    _, padded = split.size_of(batch)
    device = next(model.parameters()).device
    shapes_only, counter = FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False)
    with torch.inference_mode(), shapes_only, counter:  # the counter innermost: it sees operations first
        model(**{name: batch[name].to(device) for name in FLOP_INPUTS if name in batch})
    return float(counter.get_total_flops() / padded)


def tokens_per_step(split: Split, settings: TrainingSettings) -> float:
    """Padded tokens of one batch, as a mean over the first epoch."""
    lengths = split.lengths
    batches = epoch_batches(0, 0, lengths, settings.batch_size, group_by_length=settings.group_by_length)
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches) / len(batches)


def _pass_rate(spec: SweepSpec, grounds: Grounds, flops_per_token: float, device: str) -> float:
    """Median over a few optimizer steps of a LoRA of rank 1: a lane's pass has the same parts."""
    model = _with_random_weights(spec, grounds).to(device)
    modules = target_modules(model, spec.target_modules)
    lora = METHODS["lora"]
    context = CellContext(modules, sum(m.component_cost for m in modules), total_steps=10_000, seed=0)
    method = lora(lora.Config(), context)
    adapted = method.adapt(model, ())
    batches = Batches(grounds.data.splits["train"], spec.training, seed=0, pad_token_id=0, device=device)
    trainer = Trainer(method, batches, spec.training, total_steps=context.total_steps, loss=grounds.data.loss)
    trainer.start()
    trainer.run(stop_at=1)  # the first step is slower than those that count
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < MEASURED_STEPS and time.perf_counter() - began < MEASURED_SECONDS:
        tokens, start = trainer.record.work.padded_tokens, time.perf_counter()
        trainer.run(stop_at=trainer.step + 1)
        tokens = trainer.record.work.padded_tokens - tokens
        flops = tokens * (lora.backbone_passes * flops_per_token + 6.0 * adapted.active_parameters())
        rates.append(flops / (time.perf_counter() - start))
    return statistics.median(rates)


def _with_random_weights(spec: SweepSpec, grounds: Grounds) -> nn.Module:
    if spec.model == LINEAR:
        layer = grounds.model.layers[0]
        return linear_backbone(layer.in_features, layer.out_features, dtype=spec.dtype).model
    kind = TYPES[grounds.data.type]
    outputs = kind.outputs(grounds.data.label_names)
    model = load_skeleton(spec.model, outputs, spec.pooling, auto_class=kind.auto_class, device="cpu")
    return model.to(getattr(torch, spec.dtype))


def _product_rate(device: str) -> float:
    """Best of a few products of square matrices; they are larger on a GPU, which small ones do not keep busy."""
    size = 4096 if device == "cuda" else 512
    a = torch.rand(size, size, device=device)
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
