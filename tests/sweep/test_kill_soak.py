"""Kill a sweep at random, again and again: it ends as if nothing had happened. Too long for CI: `make soak`."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
import yaml
from sweep_helpers import assert_logged_once, lasting, launch

pytestmark = pytest.mark.xdist_group("clusters")

TRIALS = 3
"""Of each of the two methods, beside their three seeds: twelve cells in all."""
KILLS = {"driver": 5, "worker": 7}
"""Of what a sweep of twelve cells with one worker each consists of."""
RUNS, KILLS_PER_RUN = 5, 5
"""Of sweeps whose cells have two workers each: at least so many runs, and at least their product in kills."""
TITLES = {
    "worker": r"ray::(RayTrainWorker|Worker\b|adapad:(cell-\S+|\d+-cells):worker-\d)",  # without a cell, and with some
    "board": "ray::EstimateBoard",
    "launcher": "ray::Launcher",
}


def write_spec(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump({"name": "killed", "pooling": "mean", "budgets": [1792], **content}))
    return path


@pytest.fixture
def spec_file(tmp_path: Path, tiny_model: Path, reviews: Path) -> Path:
    return write_spec(
        tmp_path / "killed.yaml",
        model=str(tiny_model),
        task={"train": str(reviews), "text": "review", "label": "stars"},
        methods={"lora": {}, "adapad": {"initial_rank": 0, "local_steps": 2}},
        seeds=[0, 1, 2],
        reference=False,
        training={"epochs": 12, "max_length": 32},
        tune={"trials": TRIALS, "budget": 1792, "space": {"learning_rate": {"log": [1e-3, 1e-2]}}},
    )


@pytest.fixture
def shared_cells(tmp_path: Path, tiny_model: Path, reviews: Path) -> Path:
    """Cells of two workers: two component-parallel ones, whose lanes work with old estimates, and a data-parallel."""
    return write_spec(
        tmp_path / "shared.yaml",
        model=str(tiny_model),
        task={"train": str(reviews), "text": "review", "label": "stars"},
        methods={
            "adapad": {"initial_rank": 0, "local_steps": 2, "staleness": 1},
            "adapad/synchronous": {"local_steps": 3},
            "lora": {},
        },
        seeds=[0],
        reference=False,
        training={"epochs": 25, "max_length": 32, "learning_rate": 5e-3},
        resources={"workers": 2},
        checkpoint={"seconds": 60, "rounds": 10},
        max_attempts=50,
    )


def folder_of(place: Path) -> Path:
    return place / "runs" / "killed"


def files(folder: Path) -> dict[str, bytes]:
    """What lies in the cells' folders beside results and the times of rounds: predictions, adapters, nothing else."""
    cells = folder / "cells"
    paths = (p for p in cells.rglob("*") if p.is_file() and p.name != "result.json" and p.parent.name != "rounds")
    return {str(path.relative_to(cells)): path.read_bytes() for path in paths}


def studies(folder: Path) -> dict[str, set[tuple[object, ...]]]:
    """The trials of every Optuna study: state, parameters, value."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    return {
        name: {
            (t.state.name, *sorted(t.params.items()), t.value)
            for t in optuna.load_study(study_name=name, storage=storage).trials
        }
        for name in optuna.get_all_study_names(storage)
    }


def undisturbed(spec: Path, place: Path) -> Path:
    process = launch(spec, place)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    return folder_of(place)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twelve_cells_killed_at_random_end_as_if_nothing_had_happened(spec_file: Path, tmp_path: Path) -> None:
    expected = undisturbed(spec_file, tmp_path / "undisturbed")
    assert len(lasting(expected)) == 12
    draw, place = random.Random(0), tmp_path / "killed"
    deck = [role for role, count in KILLS.items() for _ in range(count)]
    draw.shuffle(deck)
    kills = disturb(spec_file, place, draw, deck, computing="worker")
    assert kills.total() >= 10, kills
    found = folder_of(place)
    assert lasting(found) == lasting(expected)
    assert files(found) == files(expected)
    assert studies(found) == studies(expected)
    assert [len(trials) for trials in studies(found).values()] == [TRIALS, TRIALS]
    assert_logged_once(f"sqlite:///{place}/mlflow.db", "killed", set(lasting(expected)))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_whatever_is_killed_cells_of_several_workers_end_with_the_undisturbed_result(
    shared_cells: Path, tmp_path: Path
) -> None:
    reference = undisturbed(shared_cells, tmp_path / "undisturbed")
    expected, expected_files = lasting(reference), files(reference)
    assert len(expected) == 3 and expected_files

    draw, kills, run = random.Random(0), Counter[str](), 0
    while run < RUNS or kills.total() < RUNS * KILLS_PER_RUN:
        run += 1
        place = tmp_path / f"run-{run}"
        began = time.monotonic()
        deck = draw.sample([*TITLES, "driver", draw.choice([*TITLES])], k=KILLS_PER_RUN)
        made = disturb(shared_cells, place, draw, deck, computing="board")
        kills += made
        print(f"run {run}: {dict(made)}, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201 - for `-s`
        assert lasting(folder_of(place)) == expected
        assert files(folder_of(place)) == expected_files
        assert_logged_once(f"sqlite:///{place}/mlflow.db", "killed", set(expected))
    assert kills.keys() == {*TITLES, "driver"}, kills


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_cells_in_packs_end_with_the_undisturbed_result_up_to_rounding(spec_file: Path, tmp_path: Path) -> None:
    """They continue from checkpoints of different steps, and in other packs than before. In fp64, because in fp32 a few
    hundred steps turn rounding into visible differences."""
    spec = yaml.safe_load(spec_file.read_text())
    spec |= {"resources": {"slots_per_pass": 4, "cpus_per_worker": 1.5}, "max_attempts": 50}
    spec |= {"checkpoint": {"seconds": 60, "rounds": 5}}
    spec["dtype"], spec["training"]["epochs"] = "float64", 30
    packed = write_spec(tmp_path / "packed.yaml", **spec)
    expected = lasting(undisturbed(packed, tmp_path / "undisturbed"))
    assert len(expected) == 12 and all(record["identity"]["packed"] for record in expected.values())
    draw, place = random.Random(0), tmp_path / "killed"
    deck = [role for role, count in KILLS.items() for _ in range(count)]
    draw.shuffle(deck)
    kills = disturb(packed, place, draw, deck, computing="worker")
    assert kills.total() >= 10, kills
    found = lasting(folder_of(place))
    assert found.keys() == expected.keys()
    for cell, record in expected.items():
        assert found[cell]["growth"] == record["growth"]
        np.testing.assert_allclose(found[cell]["train_loss"], record["train_loss"], rtol=0, atol=1e-6)
    assert_logged_once(f"sqlite:///{place}/mlflow.db", "killed", set(expected))


def disturb(spec: Path, place: Path, draw: random.Random, deck: Sequence[str], computing: str) -> Counter[str]:
    """Launches a sweep, kills the roles of `deck` at random moments, and sees it to its end; how often it killed whom.

    Args:
        computing: the role that is there only while cells are being computed: few kills are to hit what is starting.
    """
    kills, family, deck = Counter[str](), Family(), list(deck)
    process = launch(spec, place)
    while process.poll() is None:
        family.grow(process.pid)
        time.sleep(draw.uniform(1, 6) if deck else 1)
        alive = {role: family.members(title) for role, title in TITLES.items()} | {"driver": [process]}
        role = next((role for role in deck if alive[role]), None)
        if role is None or (not alive[computing] and draw.random() < 0.8):
            continue
        deck.remove(role)
        kills[role] += 1
        family.grow(process.pid)
        with suppress(psutil.NoSuchProcess):
            draw.choice(alive[role]).kill()
        if role == "driver":
            process.communicate()
            time.sleep(draw.uniform(0, 2))
            process = launch(spec, place)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    deadline = time.monotonic() + 90
    while left := family.members():
        assert time.monotonic() < deadline, f"{len(left)} processes are left, {left[0]} first"
        time.sleep(1)
    return kills


class Family:
    """All descendants that a run's drivers ever had, whoever is their parent now."""

    def __init__(self) -> None:
        self._known: set[psutil.Process] = set()

    def grow(self, pid: int) -> None:
        """Takes in the descendants that a driver has at the moment."""
        with suppress(psutil.NoSuchProcess):
            self._known.update(psutil.Process(pid).children(recursive=True))

    def members(self, title: str = "") -> list[psutil.Process]:
        """Those that are alive and whose title matches."""
        found = []
        for process in self._known:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and re.search(title, " ".join(process.cmdline())):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)
