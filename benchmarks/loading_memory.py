"""Measures the memory of the driver and of the workers of a sweep over a large checkpoint of random weights, on a CPU.

    PYTHONPATH=. python benchmarks/loading_memory.py [--layers 24] [--stored float32] [--dtype float32] [--workers 1]

Plans the sweep, runs it, and prints the peak of each process: the resident set, and the parts of it that are private
(anonymous), mapped files (the page cache, which all processes of a node share) and the object store. The same is done
with a model of one layer, which says what a process takes without the weights. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import tokenizers
import torch
import transformers

PARTS = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
WORDS = [f"w{i}" for i in range(100)]


def write_checkpoint(folder: Path, layers: int, vocabulary: int, dtype: torch.dtype) -> int:
    """Writes a Llama of random weights in shards of 500 MB and a tokenizer of a hundred words; returns its bytes."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        pad_token_id=0,
    )
    with torch.device("meta"):
        model = transformers.LlamaModel(config)
    model = model.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    model.save_pretrained(folder, max_shard_size="500MB")
    inner = tokenizers.models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(inner)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.parameters())


def write_sweep(folder: Path, dtype: str, groups: int) -> Path:
    """Writes a sweep of a few steps over sixteen short texts."""
    rows = [{"text": " ".join(WORDS[i : i + 8]), "label": i % 2} for i in range(48)]
    for name, part in (("train", rows[:16]), ("validation", rows[16:32]), ("test", rows[32:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    content = {
        "name": "loading",
        "model": str(folder / "model"),
        "task": {name: str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")},
        "methods": {"lora": {}},
        "budgets": ["200 ranks"],
        "seeds": list(range(groups)),
        "reference": False,
        "dtype": dtype,
        "precision": "full",
        "training": {"epochs": 1, "batch_size": 8, "max_length": 16},
        "resources": {"cpus_per_worker": 1, "max_groups": groups},
        "storage": str(folder / "runs"),
        "tracking": f"sqlite:///{folder / 'mlflow.db'}",
    }
    (folder / "sweep.yaml").write_text(json.dumps(content))
    return folder / "sweep.yaml"


def peaks(command: list[str], folder: Path) -> dict[str, dict[str, int]]:
    """Runs a subcommand of `adapad`; returns the peak bytes of the driver and of each worker, by part."""
    code = "from adapad_ray.cli import app; app()"
    with (folder / "output").open("w") as output:
        driver = subprocess.Popen([sys.executable, "-c", code, *command], stdout=output, stderr=output)
        found: dict[str, dict[str, int]] = {}
        while driver.poll() is None:
            for name, pid in processes(driver.pid):
                peak = found.setdefault(name, dict.fromkeys(PARTS, 0))
                for part, size in memory(pid):
                    peak[part] = max(peak[part], size)
            time.sleep(0.05)
    if driver.returncode:
        raise SystemExit((folder / "output").read_text())
    return found


def processes(driver: int) -> Iterator[tuple[str, int]]:
    """The driver, and the processes below it that hold a model or may: Ray's actors, by name."""
    yield "driver", driver
    with suppress(psutil.Error):
        for process in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.Error, IndexError):
                title = process.cmdline()[0]
                if title.startswith("ray::") and "IDLE" not in title:
                    yield f"worker {process.pid}", process.pid


def memory(pid: int) -> list[tuple[str, int]]:
    """Resident bytes of a process by part, as the kernel counts them."""
    with suppress(OSError):
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return [(line[0][:-1], int(line[1]) * 1024) for line in lines if line and line[0][:-1] in PARTS]
    return []


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--stored", default="float32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| weights (MB) | command | process | RSS (MB) | private | mapped files | object store |")
    print("|---|---|---|---|---|---|---|")
    for layers, vocabulary in ((1, 1024), (arguments.layers, 65_536)):
        with tempfile.TemporaryDirectory(prefix="loading-") as name:
            folder = Path(name)
            size = write_checkpoint(folder / "model", layers, vocabulary, getattr(torch, arguments.stored))
            spec = str(write_sweep(folder, arguments.dtype, arguments.workers))
            for command in (["plan", spec], ["sweep", spec]):
                for process, peak in peaks(command, folder).items():
                    if process == "driver" or peak["VmRSS"] > 3e8:
                        figures = (f"{part / 1e6:,.0f}" for part in peak.values())
                        print(f"| {size / 1e6:,.0f} | {command[0]} | {process} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
