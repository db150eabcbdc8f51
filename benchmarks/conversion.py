"""Compares PARA with PEFT's conversion on the parents of a finished sweep: accuracy at equal rank, and seconds.

    python benchmarks/conversion.py runs/glue-sst2 benchmarks/glue.yaml name=glue-sst2 task.train=… (as in the sweep)

For every budget and seed that `para` cut, PEFT loads the trained parent, and `peft.convert_to_lora` cuts it to one rank
for all modules, as `para` with `cut: uniform` does. The result is saved, loaded again and evaluated on the sweep's test
split. PEFT computes the SVD of every dense update, `para` that of the factors. One thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
import peft
import torch
from safetensors.torch import load_file, save_file

from adapad_ray.adapters.compression import compress_adapter
from adapad_ray.models import Backbone, load_backbone
from adapad_ray.report.records import load_results
from adapad_ray.results import CellResult
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.tasks import Split, find_metric
from adapad_ray.training.cell.evaluation import predict

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def convert(backbone: Backbone, parent: Path, rank: int, to: Path) -> float:
    """Writes PEFT's conversion of the adapter in `parent`, including its head, and returns the seconds it took."""
    model = peft.PeftModel.from_pretrained(backbone.model, parent)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per module: LoRA needs no conversion
        config, weights = peft.convert_to_lora(model, rank=rank)
    seconds = time.perf_counter() - start
    head = {name: value for name, value in load_file(parent / WEIGHTS).items() if ".lora_" not in name}
    config.save_pretrained(to)
    saved = json.loads((parent / CONFIG).read_text())["modules_to_save"]
    settings = json.loads((to / CONFIG).read_text()) | {"modules_to_save": saved, "task_type": None}
    (to / CONFIG).write_text(json.dumps(settings))
    save_file({name: value.contiguous() for name, value in weights.items()} | head, to / WEIGHTS)
    return seconds


def score(backbone: Backbone, adapter: Path, split: Split, metric: str) -> float:
    """Returns the metric of an adapter on `split`, loaded with PEFT."""
    model = peft.PeftModel.from_pretrained(backbone.model, adapter).eval()
    logits = predict(model, split, batch_size=64, pad_token_id=backbone.tokenizer.pad_token_id)
    return find_metric(metric).scores(logits, split.labels)[metric]


def main() -> None:
    """Prints one row per budget with means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    spec = load_spec(arguments.spec, arguments.overrides)
    data = load_inputs(spec).inputs.data
    results = load_results(arguments.folder, Manifest.load(arguments.folder).labels)
    cells = {(r.identity.config["cut"], r.identity.budget, r.identity.seed): r for r in results if is_cut(r)}
    rows = []
    for (cut, budget, seed), uniform in sorted(cells.items(), key=str):
        if cut != "uniform" or ("global", budget, seed) not in cells:
            continue
        best = cells["global", budget, seed]
        parent = arguments.folder / "cells" / str(uniform.identity.parent) / "adapter"
        ranks = json.loads((parent.parent.parent / uniform.id / "adapter" / CONFIG).read_text())["r"]
        with tempfile.TemporaryDirectory() as scratch:
            fresh = [load_backbone(spec.model, len(data.class_names), pooling=spec.pooling) for _ in range(2)]
            theirs = convert(fresh[0], parent, ranks, Path(scratch))
            metric = score(fresh[1], Path(scratch), data.splits["test"], uniform.metric)
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            compress_adapter(parent, Path(scratch) / "cut", budget=str(budget), cut="uniform")
            ours = time.perf_counter() - start
        rows.append(
            {
                "budget": budget,
                "para": best.final.test[best.metric],
                "para/uniform": uniform.final.test[uniform.metric],
                "PEFT": metric,
                "same parent": float(best.identity.parent == uniform.identity.parent),
                "para s": ours,
                "PEFT s": theirs,
            }
        )
    print(pd.DataFrame(rows).groupby("budget").mean().to_string(float_format="%.3f"))


def is_cut(result: CellResult) -> bool:
    """Whether a result is a point of the curve that was cut from a parent."""
    return result.identity.method == "para" and result.identity.stage == "curve"


if __name__ == "__main__":
    main()
