"""Padding of training batches, and what packing sequences into shared rows would save.

    python benchmarks/padding.py FOLDER/squad_v2/train.jsonl FOLDER/rte/train.jsonl --model smollm2-135m

A file's columns `context` and `question`, `sentence1` and `sentence2`, or `sentence` make one text per row. *Packed* is
first fit, decreasing, of each batch's texts into rows as wide as its longest: a batch is the same texts then, so the
steps of a training are the same. The last table times one pass, forward and backward, over one batch that is padded,
and over the same batch as one row, whose texts transformers separates by their positions; it checks that losses and
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
from adapad_ray.training.batches import epoch_batches

COLUMNS = (("context", "question"), ("sentence1", "sentence2"), ("sentence",))


def lengths_of(file: Path, model: str, rows: int) -> np.ndarray:
    """Tokens of the file's first texts."""
    texts = []
    for line in file.read_text(encoding="utf-8").splitlines()[:rows]:
        row = json.loads(line)
        names = next(names for names in COLUMNS if names[0] in row)
        texts.append("\n".join(row[name] for name in names))
    return np.array([len(ids) for ids in load_tokenizer(model)(texts)["input_ids"]])


def packed_rows(lengths: np.ndarray, width: int) -> int:
    """Rows of this width that hold all texts, by first fit, decreasing."""
    rows: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fits = next((i for i, used in enumerate(rows) if used + length <= width), None)
        if fits is None:
            rows.append(length)
        else:
            rows[fits] += length
    return len(rows)


def padding(lengths: np.ndarray, size: int, *, grouped: bool, packed: bool) -> float:
    """Share of an epoch's tokens that is padding."""
    whole = 0
    for rows in epoch_batches(0, 0, lengths, size, group_by_length=grouped):
        width = int(lengths[rows].max())
        whole += width * (packed_rows(lengths[rows], width) if packed else len(rows))
    return 1 - lengths.sum() / whole


def one_pass(inputs: dict[str, torch.Tensor], last: torch.Tensor, model: torch.nn.Module) -> tuple[float, torch.Tensor]:
    """Seconds of a pass whose loss is on the last token of every text, and the gradient of the first layer's query."""
    weight = model.model.layers[0].self_attn.q_proj.weight
    model.zero_grad()
    began = time.process_time()
    states = model.model(**inputs).last_hidden_state
    states.flatten(0, 1)[last].pow(3).mean().backward()  # the last norm keeps the square
    return time.process_time() - began, weight.grad.clone()


def times(lengths: np.ndarray, repeats: int) -> tuple[float, float, float]:
    """Median seconds of padded and packed passes over one batch, and the largest relative difference of gradients."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        use_cache=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    texts = [torch.randint(0, config.vocab_size, (int(n),)) for n in lengths]
    ids, mask = (
        torch.zeros(len(texts), int(lengths.max()), dtype=torch.long),
        torch.zeros(len(texts), int(lengths.max())),
    )
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    padded = {"input_ids": ids, "attention_mask": mask.long()}
    flat = {
        "input_ids": torch.cat(texts)[None],
        "position_ids": torch.cat([torch.arange(len(text)) for text in texts])[None],
    }
    ends = torch.arange(len(texts)) * ids.shape[1] + torch.tensor(lengths) - 1
    seconds: dict[str, list[float]] = {"padded": [], "packed": []}
    for _ in range(repeats):
        took, expected = one_pass(padded, ends, model)
        seconds["padded"].append(took)
        took, found = one_pass(flat, torch.tensor(lengths).cumsum(0) - 1, model)
        seconds["packed"].append(took)
    error = float((found - expected).abs().max() / expected.abs().max())
    return float(np.median(seconds["padded"])), float(np.median(seconds["packed"])), error


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
        rows = epoch_batches(0, 0, lengths, 16, group_by_length=True)[0]
        batches[file.parent.name] = lengths[rows]
    print("\n| data | texts, longest | padded | one row | gradients differ by |\n|---|---|---|---|---|")
    for name, lengths in batches.items():
        padded, packed, error = times(lengths, given.repeats)
        print(f"| {name} | {len(lengths)}, {lengths.max()} | {padded:.2f} s | {packed:.2f} s | {error:.0e} |")


if __name__ == "__main__":
    main()
