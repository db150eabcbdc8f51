"""Padding of training batches, and what it takes and saves to let texts share rows (`training.pack_sequences`).

    python benchmarks/padding.py FOLDER/squad_v2/train.jsonl FOLDER/rte/train.jsonl --model smollm2-135m

A file's columns `context` and `question`, `sentence1` and `sentence2`, or `sentence` make one text per row. *Packed* is
what a training does: each batch in rows as wide as its longest text. The last table times one pass, forward and
backward, over one batch that is padded, over the same batch packed, and over it as one row; it checks that losses and
gradients agree. Random weights, SmolLM2-135M's shape with four layers, fp32, one thread, process CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from adapad_ray.models import load_tokenizer
from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.training.batches import Batch, Batches, epoch_batches
from adapad_ray.training.passes.row_layout import rows_of
from adapad_ray.training.passes.sequence_packing import forward
from adapad_ray.training.settings import TrainingSettings

MOST_TOKENS = 4000
"""Of a batch that is timed as one row, whose attention takes memory by the square."""
COLUMNS = (("context", "question"), ("sentence1", "sentence2"), ("sentence",))


def lengths_of(file: Path, model: str, rows: int) -> np.ndarray:
    """Tokens of the file's first texts."""
    texts = []
    for line in file.read_text(encoding="utf-8").splitlines()[:rows]:
        row = json.loads(line)
        names = next(names for names in COLUMNS if names[0] in row)
        texts.append("\n".join(row[name] for name in names))
    return np.array([len(ids) for ids in load_tokenizer(model)(texts)["input_ids"]])


def padding(lengths: np.ndarray, size: int, *, grouped: bool, packed: bool) -> float:
    """Share of an epoch's tokens that is padding."""
    whole = 0
    for rows in epoch_batches(0, 0, lengths, size, group_by_length=grouped):
        width = int(lengths[rows].max())
        whole += width * (len(rows_of(lengths[rows], width)) if packed else len(rows))
    return 1 - lengths.sum() / whole


def one_pass(batch: Batch, model: torch.nn.Module) -> tuple[float, torch.Tensor]:
    """Seconds of a pass whose loss is on the last token of every text, and the gradient of the first layer's query."""
    weight = model.model.layers[0].self_attn.q_proj.weight
    model.zero_grad()
    began = time.process_time()
    answer_cross_entropy(forward(model, batch), batch.labels).mean().backward()
    return time.process_time() - began, weight.grad.clone()


def times(lengths: np.ndarray, repeats: int) -> tuple[list[float], float]:
    """Median seconds of padded, packed and one-row passes over one batch, and the largest difference of gradients."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        use_cache=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, config.vocab_size, int(n)).tolist() for n in lengths]
    one_row = int(lengths.sum()) <= MOST_TOKENS
    split, rows = prompted(texts, [1] * len(texts), np.ones(len(texts))), np.arange(len(texts))
    settings = [TrainingSettings(pack_sequences=packed, batch_size=len(texts)) for packed in (False, True, True)]
    batches = [
        Batches(split, chosen, seed=0, pad_token_id=0, one_row=together).load(rows)
        for chosen, together in zip(settings, (False, False, True), strict=True)
    ][: 3 if one_row else 2]
    seconds: list[list[float]] = [[] for _ in batches]
    errors = []
    for _ in range(repeats):
        for taken, batch in zip(seconds, batches, strict=True):
            took, gradient = one_pass(batch, model)
            taken.append(took)
            if batch is batches[0]:
                expected = gradient
            errors.append(float((gradient - expected).abs().max() / expected.abs().max()))
    return [float(np.median(taken)) for taken in seconds], max(errors)


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print("| data | tokens (10, 50, 90 %) | batch | random order | packed | by length | by length, packed |")
    print("|---|---|---|---|---|---|---|")
    batches = {}
    for file in given.files:
        lengths = lengths_of(file, given.model, given.rows)
        shown = ", ".join(f"{value:.0f}" for value in np.percentile(lengths, [10, 50, 90]))
        for size in (4, 16, 64):
            shares = [
                f"{padding(lengths, size, grouped=grouped, packed=packed):.1%}"
                for grouped in (False, True)
                for packed in (False, True)
            ]
            print(f"| {file.parent.name} | {shown} | {size} | {' | '.join(shares)} |")
        for size, grouped in ((16, True), (16, False), (64, True)):
            rows = epoch_batches(0, 0, lengths, size, group_by_length=grouped)[0]
            batches[f"{file.parent.name} | {size}, {'by length' if grouped else 'random'}"] = lengths[rows]
    print("\n| data | batch | longest | rows | padded | packed | one row | gradients differ by |")
    print("|---|---|---|---|---|---|---|---|")
    for name, lengths in batches.items():
        medians, error = times(lengths, given.repeats)
        count = f"{len(lengths)} to {len(rows_of(lengths, int(lengths.max())))}"
        shown = " | ".join([*(f"{median:.2f} s" for median in medians), *["–"] * (3 - len(medians)), f"{error:.0e}"])
        print(f"| {name} | {lengths.max()} | {count} | {shown} |")


if __name__ == "__main__":
    main()
