"""Compares two folders of the same sweep bit by bit: adapters, heads, predictions, losses, metrics and ranks.

    python benchmarks/compare_sweeps.py runs/before runs/after

Cells are matched by stage, label, budget and seed, because ids may differ between versions. The exit code is 0 if all
compared values are equal, else 1. Only files are read, so the two folders may come from different versions of the
project.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Key = tuple[str, str, int | None, int]
POINT_FIELDS = ("parameters", "head_parameters", "ranks", "validation", "test")


def cells(sweep: Path) -> dict[Key, tuple[dict[str, Any], Path]]:
    """Returns record and folder of every finished cell, by stage, label, budget and seed."""
    found = {}
    for path in sorted(sweep.glob("cells/*/result.json")):
        record = json.loads(path.read_text())
        identity = record["identity"]
        label = identity["method"] if identity["stage"] == "parent" else identity["label"]
        found[identity["stage"], label, identity["budget"], identity["seed"]] = record, path.parent
    return found


def differences(old: tuple[dict[str, Any], Path], new: tuple[dict[str, Any], Path]) -> Iterator[str]:
    """Yields one line per value of a cell that is not bitwise equal in the two sweeps."""
    (before, old_folder), (after, new_folder) = old, new
    if before["train_loss"] != after["train_loss"]:
        yield "training losses"
    if before["growth"] != after["growth"]:
        yield "growth events"
    if len(before["points"]) != len(after["points"]):
        yield f"number of points: {len(before['points'])}, {len(after['points'])}"
        return
    for one, other in zip(before["points"], after["points"], strict=True):
        name = one["kind"] if one["prefix"] is None else f"{one['kind']}-{one['prefix']}"
        yield from (
            f"{name} {field}: {one[field]}, {other[field]}" for field in POINT_FIELDS if one[field] != other[field]
        )
        if (one["adapter"] is None) != (other["adapter"] is None):
            yield f"{name}: one of them has no adapter"
        elif one["adapter"] is not None:
            folders = old_folder / one["adapter"], new_folder / other["adapter"]
            for file in sorted({path.name for folder in folders for path in folder.glob("*.safetensors")}):
                yield from (f"{name} {line}" for line in tensor_differences(*(folder / file for folder in folders)))
    predictions = "predictions.safetensors"
    yield from tensor_differences(old_folder / predictions, new_folder / predictions)


def tensor_differences(old: Path, new: Path) -> Iterator[str]:
    """Yields one line per tensor that is missing in one of two safetensors files, or not bitwise equal."""
    if not (old.exists() and new.exists()):
        yield f"{old.name} is missing in one folder"
        return
    one, other = load_file(old), load_file(new)
    yield from (f"{old.name} {name} is in one file only" for name in sorted(one.keys() ^ other.keys()))
    for name in sorted(one.keys() & other.keys()):
        a, b = one[name], other[name]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            same_shape = a.shape == b.shape
            largest = (
                float(np.abs(a.astype(float) - b.astype(float)).max()) if same_shape and a.size else "shapes differ"
            )
            yield f"{old.name} {name} (largest difference {largest})"


def main(before: Path, after: Path) -> int:
    """Prints one line per cell; returns the exit code."""
    old, new = cells(before), cells(after)
    failed = 0
    for key in sorted(old.keys() | new.keys(), key=str):
        if key not in old or key not in new:
            print(f"{key}: only in {before if key in old else after}")
            failed += 1
            continue
        lines = list(differences(old[key], new[key]))
        failed += bool(lines)
        print(f"{key}: {'equal' if not lines else '; '.join(lines[:5])}")
    print(f"{len(old.keys() & new.keys())} cells compared, {failed} differ")
    return 1 if failed or not old else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
