"""Memory and time of a pass whose loss takes all logits of the answers at once, and of one that takes them in chunks.

    python benchmarks/answer_loss.py FOLDER/squad_v2/train.jsonl

One batch of four texts of about one length, as `group_by_length` makes them; LoRA of four components per layer on
SmolLM2-135M's shape, random weights, fp32, one thread. *Chat*: all tokens but the first 30 are learnt; *generation*:
the last eight. Every figure is of a process of its own: process CPU time of the second of two passes, forward and
backward, and how much its memory grew at the peak (maximum resident set size).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from padding import lengths_of

from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import CellContext
from adapad_ray.models.source import read_config, resolve_for_planning
from adapad_ray.models.target_modules import target_modules
from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.training.batches import Batches, epoch_batches
from adapad_ray.training.passes.gradient_checkpointing import recomputed_layers
from adapad_ray.training.passes.sequence_packing import forward
from adapad_ray.training.passes.token_losses import example_losses
from adapad_ray.training.settings import TrainingSettings

MODEL, TEXTS = "HuggingFaceTB/SmolLM2-135M-Instruct", 4
CASES = [("chat", False), ("chat", True), ("generation", False)]
"""What is learnt, and whether layers are recomputed."""


def measured(lengths: list[int], answers: str, recomputed: bool, chunked: bool) -> dict[str, float]:
    """Seconds, bytes, loss and gradient norm of one pass in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = read_config(resolve_for_planning(MODEL))
    model = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    modules = target_modules(model, "all-linear")
    lora, cost = METHODS["lora"], sum(m.component_cost for m in modules)
    method = lora(lora.Config(), CellContext(modules, 4 * cost, total_steps=1, seed=0))
    adapted = method.adapt(model, ())
    method.build(torch.Generator().manual_seed(0))
    adapted.use(lane := method.lanes(0)[0])
    parameters = adapted.parameters(lane)
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, config.vocab_size, n).tolist() for n in lengths]
    split = prompted(texts, [n - 30 if answers == "chat" else 8 for n in lengths], np.ones(len(texts)))
    settings = TrainingSettings(batch_size=len(texts))
    batch = Batches(split, settings, seed=0, pad_token_id=0).load(np.arange(len(texts)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        began = time.process_time()
        with recomputed_layers(model, recomputed):
            losses = (
                example_losses(model, batch, answer_cross_entropy)
                if chunked
                else answer_cross_entropy(forward(model, batch), batch.labels)
            )
            gradients = torch.autograd.grad(losses.mean(), parameters)
        seconds = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    norm = float(torch.nn.utils.get_total_norm(gradients))
    return {"seconds": seconds, "bytes": grown, "loss": float(losses.mean().detach()), "norm": norm}


def run(file: Path, texts: str, *case: object) -> dict[str, float]:
    """`measured` in another process."""
    command = [sys.executable, __file__, str(file), "--only", texts, *map(str, case)]
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # freed tensors go back to the system at once
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=exact)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs=4, metavar=("LENGTHS", "ANSWERS", "RECOMPUTED", "CHUNKED"))
    given = parser.parse_args()
    if given.only:
        lengths, answers, recomputed, chunked = given.only
        print(json.dumps(measured(json.loads(lengths), answers, recomputed == "True", chunked == "True")))
        return
    lengths = lengths_of(given.file, "smollm2-135m", 4000)
    rows = epoch_batches(0, 0, lengths, TEXTS, group_by_length=True)[0]
    texts = json.dumps(lengths[rows].tolist())
    print(f"texts of {texts} tokens\n")
    print("| learnt | layers | all logits | in chunks | all logits | in chunks | loss, gradient differ by |")
    print("|---|---|---|---|---|---|---|")
    for answers, recomputed in CASES:
        runs = [run(given.file, texts, answers, recomputed, chunked) for chunked in (False, True)]
        cells = [f"{one['bytes'] / 1e6:,.0f} MB" for one in runs] + [f"{one['seconds']:.1f} s" for one in runs]
        differ = ", ".join(f"{abs(runs[0][name] / runs[1][name] - 1):.0e}" for name in ("loss", "norm"))
        print(f"| {answers} | {'recomputed' if recomputed else 'kept'} | {' | '.join(cells)} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
