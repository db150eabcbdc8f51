"""Measures the overhead of a sweep beyond training: 200 light cells of one tiny model, in a separate process.

    python benchmarks/overhead.py --cells 200

Overhead per cell is the wall time of `adapad sweep`, from start to exit with report and MLflow, minus the seconds of
training and evaluation divided by the number of groups, divided by the number of cells. Memory is sampled while cells
finish: the resident set of the driver, and the PSS of the driver and all its descendants (shared pages count once).
CPU seconds are those of the driver and all its descendants, Ray's services included, sampled until they end.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import yaml
from transformers import BertConfig, BertModel

from adapad_ray.testing import word_tokenizer

WORDS = ["good", "fine", "bad", "poor", "film", "plot", "actor", "scene", "music", "story", "the", "a"]
PER_SEED = 4
"""Cells per seed: two methods at two budgets."""


def write_inputs(folder: Path, cells: int) -> Path:
    """Writes a tiny BERT, 400 reviews and the sweep's file; returns the path of the file."""
    tokenizer = word_tokenizer(WORDS)
    tokenizer.save_pretrained(folder / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(
        folder / "model"
    )
    draw = random.Random(0)
    with (folder / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(400):
            rows.writerow(
                [" ".join([draw.choice(WORDS[2 * (i % 2) : 2 * (i % 2) + 2]), *draw.choices(WORDS[4:], k=8)]), i % 2]
            )
    content = {
        "name": "overhead",
        "model": str(folder / "model"),
        "pooling": "mean",
        "task": {"train": str(folder / "reviews.csv")},
        "methods": {"lora": {}, "adapad": {}},
        "budgets": [896, 1792],
        "seeds": list(range(-(-cells // PER_SEED))),
        "reference": False,
        "training": {"epochs": 1, "max_length": 32},
    }
    path = folder / "overhead.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def add_cpu_seconds(process: psutil.Process, seconds: dict[tuple[int, float], float]) -> None:
    """Records the CPU time so far of a process and its descendants, by process id and start."""
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            times = one.cpu_times()
            seconds[one.pid, one.create_time()] = times.user + times.system


def memory(process: psutil.Process) -> tuple[float, float]:
    """Memory in MB of the driver, and of the driver with all its descendants."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            total += one.memory_full_info().pss
    return process.memory_info().rss / 1e6, total / 1e6


def main() -> None:
    """Runs the sweep and prints its overhead and its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("overrides", nargs="*", help="of the sweep's file, as in seeds=[0]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        spec = write_inputs(place, arguments.cells)
        command = [
            sys.executable,
            "-c",
            "from adapad_ray.cli import app; app()",
            "sweep",
            str(spec),
            *arguments.overrides,
        ]
        began = time.perf_counter()
        with (place / "output.txt").open("w") as output:
            sweep = subprocess.Popen(command, cwd=place, stdout=output, stderr=subprocess.STDOUT)
            samples, process, cpu = [], psutil.Process(sweep.pid), {}
            for tick in itertools.count():
                if sweep.poll() is not None:
                    break
                with suppress(psutil.Error):
                    add_cpu_seconds(process, cpu)
                    if tick % 8 == 0:
                        done = len(list((place / "runs" / "overhead" / "cells").glob("*/result.json")))
                        samples.append((done, *memory(process)))
                time.sleep(0.25)
        wall = time.perf_counter() - began
        said = (place / "output.txt").read_text()
        if sweep.returncode != 0:
            raise SystemExit(said)
        groups = int(next(line for line in said.splitlines() if "side by side" in line).split(", ")[1].split()[0])
        costs = [
            json.loads(path.read_text())["cost"]
            for path in (place / "runs" / "overhead" / "cells").glob("*/result.json")
        ]
    training = sum(cost["train_seconds"] + cost["evaluation_seconds"] for cost in costs)
    overhead = (wall - training / groups) / len(costs)
    print(
        f"{len(costs)} cells, {groups} groups, {wall:.0f} s of wall time, {training:.0f} s of training and evaluation"
    )
    print(f"overhead {overhead:.2f} s a cell, {sum(cpu.values()):.0f} CPU seconds in all")
    for name, column in (("driver", 1), ("all processes", 2)):
        meanwhile = [s for s in samples if s[0] < len(costs)]  # afterwards the pool closes and the report is written
        near = {n: [s[column] for s in meanwhile if abs(s[0] - n) <= 10] for n in (20, 100, len(costs) - 10)}
        at = {n: np.median(values) for n, values in near.items() if values}
        print(f"memory of {name}: " + ", ".join(f"{value:.0f} MB around cell {n}" for n, value in at.items()))


if __name__ == "__main__":
    main()
