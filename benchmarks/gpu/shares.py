"""The same sweep through Ray, by `adapad sweep`: a quarter of a GPU per worker, with packs and without, and a whole."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.results import CellResult
from adapad_ray.testing import word_tokenizer
from benchmarks.gpu.scale import DEVICE, SHAPES, Scale

_WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "plot", "actor", "scene", "the", "a", "is", "was"]


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row per share of the GPU and most slots of a pass; without a GPU one row, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        name = str(Path(model).resolve()) if model else _random_model(root / "model", scale)
        _write_reviews(root / "reviews.csv", 200 * scale.batch_size if DEVICE == "cuda" else 60)
        shares = [(0.25, 8), (0.25, 1), (1.0, 1)] if DEVICE == "cuda" else [(0.0, 1)]
        for share, slots in shares:
            yield _row(root, name, share, slots, scale)


def _row(root: Path, model: str, share: float, slots: int, scale: Scale) -> dict[str, Any]:
    row = {"GPUs a worker": share, "slots": slots}
    out = root / f"sweep-{share}-{slots}"
    spec = {
        "name": "shares",
        "model": model,
        "task": {"type": "classification", "train": "reviews.csv", "text": "review", "label": "stars"},
        "data_dir": str(root),
        "methods": {"lora": {}, "adapad": {}},
        "budgets": ["24 ranks", "48 ranks"],
        "seeds": [0, 1] if DEVICE == "cuda" else [0],
        "training": {"epochs": 1, "batch_size": scale.batch_size, "max_length": 32, "learning_rate": 2e-3},
        "resources": {"gpus_per_worker": share, "slots_per_pass": slots},
        "tracking": f"sqlite:///{root}/mlflow.db",
    }
    file = root / f"spec-{share}-{slots}.yaml"
    file.write_text(yaml.safe_dump(spec))
    began = time.monotonic()
    ended = CliRunner().invoke(app, ["sweep", str(file), "--out", str(out)])
    if ended.exit_code:
        return {**row, "error": f"{ended.exception!r} {ended.output[-1500:]}"}
    results = [CellResult.model_validate_json(path.read_text()) for path in sorted(out.glob("cells/*/result.json"))]
    recommended = json.loads((out / "recommendation.json").read_text())
    return {
        **row,
        "cells": len(results),
        "s": round(time.monotonic() - began, 1),
        "s of training, all cells": round(sum(r.cost.train_seconds for r in results), 1),
        "GiB a cell": f"{max(r.cost.peak_memory_bytes for r in results) / 2**30:.2f}",
        "precision": results[0].identity.precision,
        "test accuracy": ", ".join(f"{r.final.test['accuracy']:.3f}" for r in results),
        "recommendation": recommended.get("label") or recommended.get("method") or "none",
    }


def _random_model(folder: Path, scale: Scale) -> str:
    """Saves an encoder with random weights and a tokenizer of the words above."""
    word_tokenizer(_WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    encoder: Any = SHAPES[scale.shapes[0]]("cpu").bert
    encoder.save_pretrained(folder)
    return str(folder)


def _write_reviews(path: Path, rows: int) -> None:
    """Reviews whose words decide their class, some of them mixed."""
    draw = random.Random(0)
    lines = ["review,stars"]
    for i in range(rows):
        opinion = draw.choices(_WORDS[:3] if i % 2 else _WORDS[3:6], k=2)
        words = opinion + draw.choices(_WORDS[6:], k=draw.randint(4, 20))
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {i},{'up' if i % 2 else 'down'}")
    path.write_text("\n".join(lines) + "\n")
