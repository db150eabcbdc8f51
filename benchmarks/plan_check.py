"""Compares the time that `adapad plan` predicts for a component-parallel cell with the measured time.

    python benchmarks/plan_check.py [--rounds 4] [--repeats 3]

MiniLM-L6 on Rotten Tomatoes, exact AdaPaD with 8 lanes and no growth, one and two workers, one thread each. A training
pass is timed right before each cell, so that changes of the machine's load matter less. Both workers are on one
machine, so the link hardly matters: the check covers the compute per lane, its split over the workers, and the other
costs of a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray

from adapad_ray.cost.estimate import estimate
from adapad_ray.distributed import JobOutcome, WorkerPool, connect
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.results import CellResult
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.training.round_log import load_rounds

LANES, LOCAL_STEPS, BATCH_SIZE = 8, 5, 16
LINK_GBPS = 100.0


def specification(rounds: int) -> SweepSpec:
    """One cell with `LANES` lanes on all 36 linear layers."""
    return parse_spec(
        {
            "name": "plan-check",
            "model": "minilm-l6",
            "task": "rotten-tomatoes",
            "methods": {"adapad": {"initial_rank": LANES, "r_max": LANES, "local_steps": LOCAL_STEPS}},
            "budgets": [f"{36 * LANES} ranks"],
            "seeds": [0],
            "reference": False,
            "training": {
                "epochs": 1,
                "batch_size": BATCH_SIZE,
                "max_length": 32,
                "max_train_examples": rounds * LOCAL_STEPS * BATCH_SIZE,
                "max_validation_examples": 16,
                "max_test_examples": 16,
            },
        }
    )


def run(pool: WorkerPool, cell: dict[str, Any], name: str) -> tuple[CellResult, Path]:
    """Runs the cell in a fresh folder."""
    folder = Path(tempfile.mkdtemp()) / name
    content = {"identity": cell, "folder": str(folder), "base_model": "minilm-l6"}
    pool.submit(name, {**content, "checkpoint_seconds": 1e6, "checkpoint_rounds": None})
    outcome = None
    while outcome is None:
        outcome = next((event for event in pool.poll() if isinstance(event, JobOutcome)), None)
    if outcome.status != "done":
        raise SystemExit(f"{name}: {outcome.error}")
    return CellResult.model_validate_json((folder / "result.json").read_text()), folder


def main() -> None:
    """Prints a Markdown table with one row per repeat and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    spec = specification(arguments.rounds)
    loaded = load_inputs(spec)
    cells = CellFactory(spec, loaded.inputs)
    plan = plan_sweep(cells)
    cell = next(CurveCells(cells, plan).waves(None, {}))[0].cell.identity.model_dump(mode="json")
    columns = ("W", "expected s", "measured s", "measured / expected", "exchange s a round", "idle", "load")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    ratios: dict[int, list[float]] = {1: [], 2: []}
    with connect(num_cpus=3), ExitStack() as pools:  # an idle group uses none of its CPUs
        shared = {"backbone": ray.put(share_backbone(loaded.backbone)), "data": ray.put(loaded.inputs.data)}
        groups = {
            workers: pools.enter_context(
                WorkerPool(open_workspace, compute, workers=workers, shared=shared, name=f"check-{workers}")
            )
            for workers in ratios
        }
        for workers, pool in groups.items():
            run(pool, cell, f"warm-up-{workers}")
        for repeat in range(arguments.repeats):
            for workers, pool in groups.items():
                (row,) = estimate(spec, loaded.inputs, plan, LINK_GBPS).rows
                (expected,) = [time for time in row.workers if time.workers == workers]
                result, folder = run(pool, cell, f"cell-{workers}-{repeat}")
                exchange = [r.exchange_seconds for rounds in load_rounds(folder).values() for r in rounds[:-1]]
                costs = result.cost.per_worker
                whole = sum(c.compute_seconds + c.wait_seconds + c.exchange_seconds for c in costs)
                ratios[workers].append(result.cost.train_seconds / expected.seconds)
                cells = (
                    str(workers),
                    f"{expected.seconds:.1f}",
                    f"{result.cost.train_seconds:.1f}",
                    f"{ratios[workers][-1]:.2f}",
                    f"{statistics.median(exchange):.3f}",
                    f"{sum(c.wait_seconds for c in costs) / whole:.1%}",
                    f"{os.getloadavg()[0]:.1f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
    for workers, values in ratios.items():
        print(f"W = {workers}: measured / expected {statistics.median(values):.2f} (median of {len(values)})")


if __name__ == "__main__":
    main()
