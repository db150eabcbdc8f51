"""Measures a round of component-parallel AdaPaD with one worker and with two, one thread each, paired in one run.

    python benchmarks/distributed.py --repeats 3 --rounds 4

MiniLM-L6, exact AdaPaD, 8 lanes, rounds of 10 steps. The first and the last round of a cell do not count: the first
warms up, and after the last the workers gather their state. A third set-up runs two independent copies of the
one-worker cell at the same time. They slow each other down on this machine, and that limits any speed-up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from adapad_ray.distributed import JobOutcome, WorkerPool, connect
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_file import parse_spec

HERE = Path(__file__).parent
LANES, LOCAL_STEPS = 8, 10
Rounds = list[dict[str, float]]


def specification(rounds: int, batch_size: int, max_length: int) -> SweepSpec:
    """One exact AdaPaD cell with `LANES` lanes on all 36 linear layers, without growth."""
    adapad = {"initial_rank": LANES, "r_max": LANES, "local_steps": LOCAL_STEPS}
    return parse_spec(
        {
            "name": "distributed",
            "model": "minilm-l6",
            "task": "rotten-tomatoes",
            "methods": {"adapad": adapad},
            "budgets": [f"{36 * LANES} ranks"],
            "seeds": [0],
            "reference": False,
            "training": {
                "epochs": 1,
                "batch_size": batch_size,
                "max_length": max_length,
                "max_train_examples": rounds * LOCAL_STEPS * batch_size,
                "max_validation_examples": 16,
                "max_test_examples": 16,
            },
        }
    )


def run(
    name: str, cell: dict[str, Any], shared: dict[str, Any], groups: int, workers: int
) -> tuple[list[list[Rounds]], set[str]]:
    """Runs `groups` copies of a cell at the same time; returns rounds by cell and rank, and digests of the adapters."""
    ready = tempfile.mkdtemp()
    shared = {**shared, "ready": ray.put(ready)}
    with WorkerPool(
        "round_times:set_up", "round_times:measure", groups=groups, workers=workers, shared=shared, name=name
    ) as pool:
        while len(list(Path(ready).iterdir())) < groups * workers:
            pool.poll(0.1)
        folders = [Path(tempfile.mkdtemp()) / f"copy-{i}" for i in range(groups)]
        for i, folder in enumerate(folders):
            pool.submit(f"{name}-{i}", {"identity": cell, "folder": str(folder)})
        outcomes: list[JobOutcome] = []
        while len(outcomes) < groups:
            outcomes += [event for event in pool.poll() if isinstance(event, JobOutcome)]
        failed = [outcome for outcome in outcomes if outcome.status != "done"]
        if failed:
            raise SystemExit(f"{failed[0].job_id}: {failed[0].error}")
    rounds = [[json.loads(Path(f"{f}.rank-{rank}.json").read_text()) for rank in range(workers)] for f in folders]
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in folders]
    return rounds, {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def inner(rounds: Rounds) -> Rounds:
    """The rounds without the first and the last."""
    return rounds[1:-1]


def mean(rounds: Rounds, key: str) -> float:
    """Mean of one value over rounds."""
    return statistics.fmean(r[key] for r in rounds)


def main() -> None:
    """Prints one line per repeat, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a cell; the first and last do not count")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=32)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(HERE))

    spec = specification(arguments.rounds, arguments.batch_size, arguments.max_length)
    loaded = load_inputs(spec)
    cells = CellFactory(spec, loaded.inputs)
    cell = next(CurveCells(cells, plan_sweep(cells)).waves(None, {}))[0].cell
    identity = cell.identity.model_dump(mode="json")
    lines = []
    with connect(num_cpus=2):
        shared = {"backbone": ray.put(share_backbone(loaded.backbone)), "data": ray.put(loaded.inputs.data)}
        for repeat in range(arguments.repeats):
            (single,), first = run(f"one-{repeat}", identity, shared, groups=1, workers=1)
            (pair,), second = run(f"two-{repeat}", identity, shared, groups=1, workers=2)
            side, third = run(f"side-{repeat}", identity, shared, groups=2, workers=1)
            one, two = inner(single[0]), [inner(r) for r in pair]
            wall = mean(two[0], "wall")
            line = {
                "one worker, s a round": mean(one, "wall"),
                "two workers, s a round": wall,
                "speed-up": mean(one, "wall") / wall,
                "ceiling": 2 * mean(one, "wall") / statistics.fmean(mean(inner(ranks[0]), "wall") for ranks in side),
                "CPU efficiency": mean(one, "cpu") / sum(mean(r, "cpu") for r in two),
                "exchange share": max(mean(r, "exchange") for r in two) / wall,
                "wait share, rank 0": mean(two[0], "wait") / wall,
                "wait share, rank 1": mean(two[1], "wait") / wall,
                "KB published a round": sum(mean(r, "published") for r in two) / 1e3,
                "KB fetched a round": sum(mean(r, "fetched") for r in two) / 1e3,
                "different adapters": len(first | second | third),
            }
            lines.append(line)
            print(" · ".join(f"{name} {value:.3g}" for name, value in line.items()), flush=True)
    print("median: " + " · ".join(f"{name} {statistics.median(line[name] for line in lines):.3g}" for name in lines[0]))


if __name__ == "__main__":
    main()
