"""Whether half-trained trials tell the winner of a tune stage: full studies, and the same with early stopping.

    python -m benchmarks.early_stopping record FOLDER [--glue FOLDER] [--first 0] [--studies 24] [--trials 6]
    python -m benchmarks.early_stopping rules FOLDER [--first 0] [--studies 24] [--trials 6]
    python -m benchmarks.early_stopping cost FOLDER [--trials 6]

`record` trains every trial of every study to its end, with validation losses on the way, of the weights as they are
and of their mean over the latter half of the steps so far; it continues where it stopped. Study n has points and
training runs of seed n; studies go round the pairs of method and task. `rules` applies rules of early stopping to what
was recorded: trials that go on are bitwise the same, so this is exact.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import torch

from adapad_ray.results import CellResult
from adapad_ray.search.halving import RUNGS, Halving, RankedTrial, Rung
from adapad_ray.search.space import quasi_random_points
from adapad_ray.storage import RECORD
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Cell, PlannedCell
from adapad_ray.sweep.planning.early_stopping import EarlyStopping
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.cell.rungs import load_rungs
from adapad_ray.training.cell.validation import LOSS, load_validations
from adapad_ray.training.settings import TrainingSettings

SPACE = {"learning_rate": {"log": [5e-4, 2e-2]}}
"""That of `adapad init`."""
METHODS = {"lora": {}, "adapad": {"initial_rank": 0, "local_steps": 2}}
PARTS = 16
"""Losses are recorded after every sixteenth of the steps."""
PAUSES = ((4, 8), (3, 6), (5,), (7,))
"""Sixteenths after which trainings pause to score averaged weights. Each of a row is twice the one before, so that its
window begins at the half of its own steps."""
TRAINING = {
    "epochs": 1,
    "batch_size": 8,
    "max_length": 32,
    "max_train_examples": 1024,
    "max_validation_examples": 160,
    "max_test_examples": 64,
}
"""128 steps."""


def settings(glue: Path) -> dict[str, dict[str, Any]]:
    """Task → the fields of a sweep's file; the budget is one component on each linear layer."""
    files = {
        split: str(glue / "sst2" / f"{name}.jsonl") for split, name in (("train", "train"), ("test", "validation"))
    }
    return {
        "rotten-tomatoes": {"model": "minilm-l6", "task": "rotten-tomatoes", "budgets": [41_472]},
        "sst2": {"model": "minilm-l6", "task": {**files, "text": "sentence"}, "budgets": [41_472]},
        "digits": {"model": "tiny-vit", "task": "digits", "budgets": [3_584]},
    }


def opened(fields: dict[str, Any]) -> tuple[CellFactory, Workspace]:
    """What makes the cells of a task, and what they train with."""
    common = {"name": "early-stopping", "methods": METHODS, "training": TRAINING, "precision": "mixed"}
    spec = parse_spec({**common, **fields})
    loaded = load_inputs(spec)
    return CellFactory(spec, loaded.inputs), Workspace(loaded.recipe.load(), loaded.inputs.data)


def record(folder: Path, glue: Path, seeds: range, trials: int) -> None:
    """Trains what is missing; writes `studies.jsonl` with one study a line."""
    torch.set_num_threads(1)
    opened_once = cache(lambda task: opened(settings(glue)[task]))
    pairs = list(product(settings(glue).items(), METHODS))
    with (folder / "studies.jsonl").open("w") as lines:
        for seed in seeds:
            (task, fields), label = pairs[seed % len(pairs)]
            cells, workspace = opened_once(task)
            study: dict[str, Any] = {"seed": seed, "task": task, "label": label, "trials": []}
            for point in quasi_random_points(SPACE, trials, seed):
                cell = cells.cell("tune", label, cells.budget(fields["budgets"][0]), seed, point)
                place = folder / cell.id
                if not (place / RECORD).exists():
                    request = CellRequest(cell.id, cell.identity, place, fields["model"], validations=PARTS - 1)
                    run_cell(request, workspace)
                result = CellResult.model_validate_json((place / RECORD).read_text())
                losses = [entry.scores[LOSS] for entry in load_validations(place)]
                averaged = averaged_losses(CellRequest(cell.id, cell.identity, place, fields["model"]), workspace)
                trial = {
                    **point,
                    "losses": [*losses, -result.tuning_score],
                    "averaged": averaged,
                    "seconds": result.cost.train_seconds,
                }
                study["trials"].append(trial)
                print(label, task, seed, json.dumps(trial), flush=True)
            print(json.dumps(study), file=lines, flush=True)


def averaged_losses(request: CellRequest, workspace: Workspace) -> dict[int, float]:
    """Sixteenths of the steps → validation loss of the averaged weights; infinite where it is not finite."""
    steps = TrainingSettings(**request.identity.training).total_steps(len(workspace.data.splits["train"]))
    losses = {}
    for row in PAUSES:
        folder = request.folder / f"pauses-{row[0]}"
        for part in row:
            run_cell(replace(request, folder=folder, pause_at=steps * part // PARTS), workspace)
        for part, rung in zip(row, load_rungs(folder), strict=True):
            losses[part] = math.inf if rung.loss is None else rung.loss
    return losses


@dataclass
class Outcome:
    """What a rule makes of one study."""

    winner: int
    """Number of the trial that wins."""
    cost: float
    """Share of the optimizer steps of all trials."""


def stopped_early(study: dict[str, Any], rungs: Sequence[Rung], trials: int, *, averaged: bool) -> Outcome:
    """Applies a rule to the first trials of a study, with scores of averaged weights or of the weights as they are."""
    ends = [trial["losses"][-1] for trial in study["trials"][:trials]]
    halving, parts = Halving([RankedTrial(str(n)) for n in range(trials)], rungs), [0] * trials
    while (taken := halving.take()) is not None:
        number, rung = int(taken[0]), taken[1]
        if rung == len(rungs):
            parts[number] = PARTS
            halving.finish(taken[0])
        else:
            parts[number] = round(rungs[rung].share * PARTS)
            trial, part = study["trials"][number], parts[number]
            loss = trial["averaged"][str(part)] if averaged else trial["losses"][part - 1]
            halving.arrive(taken[0], -loss if math.isfinite(loss) else None)
    finished = [number for number in range(trials) if parts[number] == PARTS]
    return Outcome(min(finished, key=ends.__getitem__), sum(parts) / PARTS / trials)


RULES = {
    "half after 1/4, half of them after 1/2": (Rung(1 / 4, 1 / 2), Rung(1 / 2, 1 / 2)),
    "half after 3/16": (Rung(3 / 16, 1 / 2),),
    "half after 3/16, half of them after 3/8": (Rung(3 / 16, 1 / 2), Rung(3 / 8, 1 / 2)),
    "two thirds after 1/4, half of them after 1/2": (Rung(1 / 4, 2 / 3), Rung(1 / 2, 1 / 2)),
    "two thirds after 3/16, half of them after 7/16 (tune.early_stopping)": RUNGS,
}


def rules(folder: Path, trials: Sequence[int], seeds: range) -> None:
    """Prints, for every rule and number of trials, the studies that have the same winner, the gaps and the cost."""
    studies = [json.loads(line) for line in (folder / "studies.jsonl").read_text().splitlines()]
    studies = [study for study in studies if study["seed"] in seeds]
    print("| goes on | weights | trials | same winner | validation loss lost where not | steps |")
    print("|---|---|---|---|---|---|")
    for (name, rungs), averaged, number in product(RULES.items(), (False, True), trials):
        outcomes = [stopped_early(study, rungs, number, averaged=averaged) for study in studies]
        ends = [[trial["losses"][-1] for trial in study["trials"][:number]] for study in studies]
        gaps = [end[outcome.winner] - min(end) for end, outcome in zip(ends, outcomes, strict=True)]
        lost = ", ".join(f"{gap:.3f}" for gap in gaps if gap > 0)
        cost = sum(outcome.cost for outcome in outcomes) / len(outcomes)
        weights = "averaged" if averaged else "as they are"
        print(f"| {name} | {weights} | {number} | {gaps.count(0.0)} of {len(gaps)} | {lost or '–'} | {cost:.0%} |")


def cost(folder: Path, glue: Path, trials: int) -> None:
    """Trains one study (LoRA on Rotten Tomatoes) both ways; prints the CPU seconds, validations and pauses included."""
    torch.set_num_threads(1)
    fields = settings(glue)["rotten-tomatoes"]
    cells, workspace = opened(fields)
    points = quasi_random_points(SPACE, trials, 0)
    planned = [PlannedCell(cells.cell("tune", "lora", fields["budgets"][0], 0, point), point) for point in points]

    def train(cell: Cell, place: str, pause_at: int | None = None) -> CellResult | None:
        return run_cell(
            CellRequest(cell.id, cell.identity, folder / place / cell.within_sweep, "minilm-l6", pause_at=pause_at),
            workspace,
        )

    train(planned[0].cell, "warm-up", 8)
    began = process_time()
    whole = {p.id: train(p.cell, "whole") for p in planned}
    middle = process_time()
    stopping = EarlyStopping(cells, RUNGS, folder / "stopped")
    halving, by_id = stopping.halving(planned, {}), {p.id: p.cell for p in planned}
    while (taken := halving.take()) is not None:
        cell = by_id[taken[0]]
        result = train(cell, "stopped", (*stopping.pauses(cell), None)[taken[1]])
        if result is None:
            halving.arrive(cell.id, stopping.reached(cell)[-1].score)
        else:
            halving.finish(cell.id)
            assert result.train_loss == whole[cell.id].train_loss and result.points == whole[cell.id].points
    ended = process_time()
    print(f"{len(halving.stopped)} stopped; without {middle - began:.1f} s, with {ended - middle:.1f} s of a CPU")
    print(f"{(ended - middle) / (middle - began):.0%} of the time; those that went on have the same losses and points")


def main() -> None:
    """Records studies, or applies rules to them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "rules", "cost"])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--glue", type=Path, default=Path("."), help="folder with GLUE's files of JSON lines, in `sst2`"
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--studies", type=int, default=24, help="number of studies; seeds are smaller")
    parser.add_argument("--trials", type=int, nargs="+", default=[6])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.action == "record":
        record(options.folder, options.glue, range(options.first, options.studies), max(options.trials))
    elif options.action == "cost":
        cost(options.folder, options.glue, max(options.trials))
    else:
        rules(options.folder, options.trials, range(options.first, options.studies))


if __name__ == "__main__":
    main()
