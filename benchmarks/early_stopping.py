"""Whether half-trained trials tell the winner of a tune stage: full studies, and the same with early stopping.

    python -m benchmarks.early_stopping record FOLDER [--glue FOLDER] [--first 0] [--end 24]
    python -m benchmarks.early_stopping rules FOLDER [--first 0] [--end 24]
    python -m benchmarks.early_stopping cost FOLDER

A study has the trials and the learning rates of `adapad init`. `record` trains every trial to its end, with the pauses
of `tune.early_stopping`; it continues where it stopped. Study n has points and training runs of seed n; studies go
round the pairs of method and task. `rules` applies rules of early stopping to what was recorded: trials that go on are
bitwise the same, so this is exact. `cost` trains one study both ways, in turns.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch

from adapad_ray.draft.spec_file import TUNE
from adapad_ray.results import CellResult
from adapad_ray.search.halving import RUNGS, Halving, RankedTrial, Rung, full_trainings
from adapad_ray.search.space import quasi_random_points
from adapad_ray.storage import RECORD
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Cell, PlannedCell
from adapad_ray.sweep.planning.early_stopping import EarlyStopping
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell

LABELS = ("lora", "adapad")
TRAINING = {
    "epochs": 1,
    "batch_size": 16,
    "max_length": 48,
    "max_train_examples": 1600,
    "max_validation_examples": 700,
    "max_test_examples": 64,
}
"""That of the quickstart, in one epoch of 100 steps."""
REPEATS = 3
"""Measurements of a cost."""


@dataclass(frozen=True)
class Task:
    """What a study trains for."""

    model: str
    task: str | dict[str, str]
    budgets: dict[str, int]
    """By label: AdaPaD has a quarter of a component per layer where the data need no more."""


def tasks(glue: Path) -> dict[str, Task]:
    """The tasks by name."""
    texts = {"lora": 41_472, "adapad": 10_368}
    sst2 = {"train": str(glue / "sst2/train.jsonl"), "test": str(glue / "sst2/validation.jsonl"), "text": "sentence"}
    return {
        "rotten-tomatoes": Task("minilm-l6", "rotten-tomatoes", texts),
        "sst2": Task("minilm-l6", sst2, texts),
        "digits": Task("tiny-vit", "digits", dict.fromkeys(LABELS, 3_584)),
    }


class Studies:
    """The studies of one task."""

    def __init__(self, task: Task, folder: Path) -> None:
        spec = parse_spec(
            {
                "name": "early-stopping",
                "model": task.model,
                "task": task.task,
                "methods": {label: {} for label in LABELS},
                "budgets": sorted(set(task.budgets.values())),
                "training": TRAINING,
                "precision": "mixed",
            }
        )
        loaded = load_inputs(spec)
        self._task, self.folder = task, folder
        self._cells = CellFactory(spec, loaded.inputs)
        self._workspace = Workspace(loaded.recipe.load(), loaded.inputs.data)
        self.stopping = EarlyStopping(self._cells, RUNGS, folder)

    def trials(self, label: str, seed: int) -> list[PlannedCell]:
        """The trials of one study."""
        budget = self._cells.budget(self._task.budgets[label])
        points = quasi_random_points(TUNE["space"], TUNE["trials"], seed)
        return [PlannedCell(self._cells.cell("tune", label, budget, seed, point), point) for point in points]

    def train(self, cell: Cell, folder: Path, pause_at: int | None = None) -> CellResult | None:
        """Trains to a pause, or to the end."""
        place = cell.folder(folder)
        request = CellRequest(cell.id, cell.identity, place, self._task.model, pause_at=pause_at)
        return run_cell(request, self._workspace)

    def record(self, planned: PlannedCell) -> dict[str, Any]:
        """Trains a trial with all pauses; its learning rate, and the validation losses at the pauses and the end."""
        cell = planned.cell
        place = cell.folder(self.folder)
        if not (place / RECORD).exists():
            for pause_at in (*self.stopping.pauses(cell), None):
                self.train(cell, self.folder, pause_at)
        result = CellResult.model_validate_json((place / RECORD).read_text())
        losses = [math.inf if rung.loss is None else rung.loss for rung in self.stopping.reached(cell)]
        return {**planned.point, "losses": losses, "end": -result.tuning_score}


def record(folder: Path, glue: Path, seeds: range) -> None:
    """Trains what is missing; writes `studies.jsonl` with one study a line."""
    torch.set_num_threads(1)
    opened = cache(lambda task: Studies(tasks(glue)[task], folder))
    pairs = list(product(tasks(glue), LABELS))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "studies.jsonl").open("w") as lines:
        for seed in seeds:
            task, label = pairs[seed % len(pairs)]
            studies = opened(task)
            trials = [studies.record(planned) for planned in studies.trials(label, seed)]
            study = {"seed": seed, "task": task, "label": label, "trials": trials}
            print(json.dumps(study), file=lines, flush=True)
            print(json.dumps(study), flush=True)


@dataclass
class Outcome:
    """What a rule makes of one study."""

    lost: float
    """Validation loss of its winner minus that of the full study's winner."""
    cost: float
    """Share of the optimizer steps of all trials."""


def stopped_early(trials: Sequence[dict[str, Any]], rungs: Sequence[Rung]) -> Outcome:
    """Applies a rule, whose rungs are among those recorded, to the trials of a study."""
    recorded = [rung.share for rung in RUNGS]
    ends, shares = [trial["end"] for trial in trials], [0.0] * len(trials)
    halving = Halving([RankedTrial(str(n)) for n in range(len(trials))], rungs)
    while (taken := halving.take()) is not None:
        number, rung = int(taken[0]), taken[1]
        if rung == len(rungs):
            shares[number] = 1.0
            halving.finish(taken[0])
        else:
            shares[number] = rungs[rung].share
            loss = trials[number]["losses"][recorded.index(shares[number])]
            halving.arrive(taken[0], -loss if math.isfinite(loss) else None)
    winner = min(end for end, share in zip(ends, shares, strict=True) if share == 1.0)
    return Outcome(winner - min(ends), sum(shares) / len(trials))


FIRST, SECOND = RUNGS
RULES = {
    "half after 3/16, two thirds of them after 7/16 (`tune.early_stopping`)": RUNGS,
    "two thirds after 3/16, half of them after 7/16": (FIRST._replace(keep=2 / 3), SECOND._replace(keep=1 / 2)),
    "half after 3/16": RUNGS[:1],
    "a third after 7/16": (SECOND._replace(keep=1 / 3),),
}


def rules(folder: Path, seeds: range) -> None:
    """Prints, for every rule and for fewer full trials, the studies that have the same winner, what is lost and the
    cost."""
    lines = (folder / "studies.jsonl").read_text().splitlines()
    studies = [study["trials"] for study in map(json.loads, lines) if study["seed"] in seeds]
    print("| rule | same winner | lost where not | steps |")
    print("|---|---|---|---|")
    for name, rungs in RULES.items():
        _print_row(name, [stopped_early(trials, rungs) for trials in studies])
    for number in (4, 3):
        ends = [[trial["end"] for trial in trials] for trials in studies]
        fewer = [Outcome(min(end[:number]) - min(end), number / len(end)) for end in ends]
        _print_row(f"the first {number} trials, all to their end", fewer)


def _print_row(name: str, outcomes: Sequence[Outcome]) -> None:
    gaps = [outcome.lost for outcome in outcomes]
    lost = ", ".join(f"{gap:.4f}" for gap in gaps if gap > 0)
    cost = sum(outcome.cost for outcome in outcomes) / len(outcomes)
    print(f"| {name} | {gaps.count(0.0)} of {len(gaps)} | {lost or '–'} | {cost:.0%} |")


def cost(folder: Path, glue: Path) -> None:
    """Trains the study of seed 0 both ways, three times, for every task; prints the CPU seconds, validations and pauses
    included."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in tasks(glue).items():
        shares = []
        for _ in range(REPEATS):
            with TemporaryDirectory(dir=folder) as place:  # where nothing is trained that would go on
                full, stopped = _costs(Studies(task, Path(place)))
            shares.append(stopped / full)
            print(f"{name}: {full:.1f} s of a CPU without, {stopped:.1f} s with: {shares[-1]:.1%}", flush=True)
        print(f"{name}: median {median(shares):.1%}", flush=True)


def _costs(studies: Studies) -> list[float]:
    """CPU seconds of one study without and with early stopping; checks that trials which end do not differ."""
    planned = studies.trials("lora", 0)
    studies.train(planned[0].cell, studies.folder / "warm-up", 8)
    whole: dict[str, CellResult] = {}
    ended: dict[str, CellResult] = {}
    sides = [_whole(studies, planned, whole), _with_stopping(studies, planned, ended)]
    seconds = _cpu_seconds(sides, [len(planned), full_trainings(len(planned), RUNGS)])
    for id, result in ended.items():
        assert result.train_loss == whole[id].train_loss and result.points == whole[id].points
    return seconds


def _whole(studies: Studies, planned: Sequence[PlannedCell], results: dict[str, CellResult]) -> Iterator[None]:
    """Trains all trials to their end, one at a `next`."""
    for trial in planned:
        result = studies.train(trial.cell, studies.folder / "whole")
        assert result is not None
        results[trial.id] = result
        yield


def _with_stopping(studies: Studies, planned: Sequence[PlannedCell], results: dict[str, CellResult]) -> Iterator[None]:
    """Trains as `tune.early_stopping` does, one trial to its next pause at a `next`."""
    halving, cells = studies.stopping.halving(planned, {}), {trial.id: trial.cell for trial in planned}
    while (taken := halving.take()) is not None:
        cell = cells[taken[0]]
        result = studies.train(cell, studies.folder, (*studies.stopping.pauses(cell), None)[taken[1]])
        if result is None:
            halving.arrive(cell.id, studies.stopping.reached(cell)[-1].score)
        else:
            halving.finish(cell.id)
            results[cell.id] = result
        yield


def _cpu_seconds(sides: Sequence[Iterator[None]], expected: Sequence[float]) -> list[float]:
    """Runs all iterators to their end; in turns, by what is expected of them, so that whatever else the machine does
    meets all."""
    seconds = [0.0] * len(sides)
    running = set(range(len(sides)))
    while running:
        side = min(running, key=lambda n: seconds[n] / expected[n])
        began = process_time()
        if next(sides[side], "over") == "over":
            running.remove(side)
        seconds[side] += process_time() - began
    return seconds


def main() -> None:
    """Records studies, applies rules to them, or measures what stopping saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "rules", "cost"])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--glue", type=Path, default=Path("."), help="folder with GLUE's files of JSON lines, in `sst2`"
    )
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--end", type=int, default=24, help="seed after that of the last study")
    options = parser.parse_args()
    seeds = range(options.first, options.end)
    if options.action == "record":
        record(options.folder, options.glue, seeds)
    elif options.action == "cost":
        cost(options.folder, options.glue)
    else:
        rules(options.folder, seeds)


if __name__ == "__main__":
    main()
