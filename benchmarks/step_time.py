"""Compares step times: PEFT's LoRA with LoRA and AdaPaD here, in full and in mixed precision, paired on one thread.

    python benchmarks/step_time.py [--runs 25] [--ranks 2 8]

Every run times one optimizer step (forward, backward, clipping, AdamW) of every candidate on the same batch of real
reviews, in process CPU time and in rotating order. Ratios are computed within a run. Prints the median ratio and a 95 %
bootstrap interval of the median.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import peft
import torch
from torch import nn
from torch.nn import functional as F

from adapad_ray.methods import METHODS, CellContext
from adapad_ray.models import Backbone, load_backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.tasks import EncodedSplit, encode, load_task
from adapad_ray.training.batches import Batches
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

BATCH = 16
STEPS = 10_000
SETTINGS = TrainingSettings(batch_size=BATCH, epochs=STEPS, learning_rate=1e-4)


def one_batch(backbone: Backbone) -> EncodedSplit:
    """The first 16 training reviews. They are a whole epoch, so every step sees the same batch."""
    raw = load_task("rotten-tomatoes")
    data = encode(raw, backbone.tokenizer, max_length=64, max_train_examples=BATCH)
    return data.splits["train"]


def ours(
    method: str, config: dict[str, object], rank: int, split: EncodedSplit, precision: str = "full"
) -> Callable[[], None]:
    """A step of one of this project's methods with `rank` components on every module of a fresh backbone."""
    backbone = load_backbone("minilm-l6", 2, precision=precision)
    modules = target_modules(backbone.model, "all-linear")
    cls = METHODS[method]
    budget = rank * sum(m.component_cost for m in modules)
    adapter = cls(cls.Config(**config), CellContext(modules, budget, STEPS, 0))
    adapter.adapt(backbone.model, backbone.head_modules)
    batches = Batches(split, SETTINGS, seed=0, pad_token_id=0)
    trainer = Trainer(adapter, batches, SETTINGS, total_steps=STEPS)
    trainer.start()
    return trainer.train_step


def by_peft(rank: int, split: EncodedSplit) -> Callable[[], None]:
    """A step of PEFT's LoRA on the same modules, with the same optimizer, clipping and schedule."""
    backbone = load_backbone("minilm-l6", 2)
    names = [m.name for m in target_modules(backbone.model, "all-linear")]
    config = peft.LoraConfig(r=rank, lora_alpha=2, target_modules=names, modules_to_save=["classifier"])
    model = peft.get_peft_model(backbone.model, config)  # type: ignore[arg-type]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SETTINGS.schedule(step, STEPS))
    rows = np.arange(BATCH)

    def step() -> None:
        batch = split.batch(rows, 0)
        labels = batch.pop("labels")
        loss = F.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    return step


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> str:
    """Median of the pairwise ratios with its 95 % bootstrap interval."""
    values = numerator / denominator
    draws = np.random.default_rng(0).choice(values, (5000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return f"{np.median(values):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = one_batch(load_backbone("minilm-l6", 2))
    print(f"one thread, batch {BATCH} x {int(split.lengths.max())} tokens, {arguments.runs} paired runs, CPU time")
    print("| r | candidate | ms a step (median) | ratio, median (95 %) | of |\n|---|---|---|---|---|")
    for rank in arguments.ranks:
        candidates = {
            "PEFT LoRA": by_peft(rank, split),
            "our LoRA": ours("lora", {}, rank, split),
            f"AdaPaD, {rank} lanes": ours("adapad", {"initial_rank": rank, "r_max": rank}, rank, split),
            "our LoRA, mixed": ours("lora", {}, rank, split, "mixed"),
            f"AdaPaD, {rank} lanes, mixed": ours("adapad", {"initial_rank": rank, "r_max": rank}, rank, split, "mixed"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        names = list(candidates)
        for run in range(-3, arguments.runs):
            for name in names[run % len(names) :] + names[: run % len(names)]:
                start = time.process_time()
                candidates[name]()
                if run >= 0:
                    seconds[name].append(time.process_time() - start)
        times = {name: np.array(values) for name, values in seconds.items()}
        peft_time, lora_time, adapad_time, mixed_time, mixed_adapad_time = times.values()
        rows = [
            ("PEFT LoRA", peft_time, "", ""),
            ("our LoRA", lora_time, ratio(lora_time, peft_time), "PEFT LoRA"),
            (f"AdaPaD, {rank} lanes", adapad_time, ratio(adapad_time, rank * lora_time), f"{rank} x our LoRA"),
            ("our LoRA, mixed", mixed_time, ratio(mixed_time, lora_time), "our LoRA"),
            ("our LoRA, mixed", mixed_time, ratio(mixed_time, peft_time), "PEFT LoRA"),
            (f"AdaPaD, {rank} lanes, mixed", mixed_adapad_time, ratio(mixed_adapad_time, adapad_time), "AdaPaD"),
        ]
        for name, values, share, of in rows:
            print(f"| {rank} | {name} | {1e3 * np.median(values):.1f} | {share} | {of} |")


if __name__ == "__main__":
    main()
