"""Kill a sweep at random, again and again: it ends as if nothing had happened. Too long for CI: `make soak`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.xdist_group("clusters")

KILLS = 4
"""Of the driver of a sweep whose cells have one worker each."""
RUNS, KILLS_PER_RUN = 5, 5
"""Of sweeps whose cells have two workers each: at least so many runs, and at least their product in kills."""
TITLES = {"worker": "ray::RayTrainWorker", "board": "ray::Board", "controller": "ray::TrainController"}


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
        training={"epochs": 12, "max_length": 32},
        tune={"trials": 2, "budget": 1792, "space": {"learning_rate": {"log": [1e-3, 1e-2]}}},
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


def launch(spec: Path, place: Path) -> subprocess.Popen[str]:
    """`adapad sweep` as a person starts it, in a process group of its own."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from adapad_ray.cli import app; app()", "sweep", str(spec)]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def lasting(place: Path) -> dict[str, object]:
    """What the results of a sweep say apart from time and memory, by cell."""
    found = {}
    for path in (place / "runs" / "killed" / "cells").glob("*/result.json"):
        result = json.loads(path.read_text())
        for name in ("start_seconds", "train_seconds", "evaluation_seconds", "peak_memory_bytes", "per_worker"):
            result["cost"].pop(name)
        found[path.parent.name] = result
    return found


def files(place: Path) -> dict[str, bytes]:
    """What lies in the cells' folders beside results and the times of rounds: predictions, adapters, nothing else."""
    cells = place / "runs" / "killed" / "cells"
    paths = (p for p in cells.rglob("*") if p.is_file() and p.name != "result.json" and p.parent.name != "rounds")
    return {str(path.relative_to(cells)): path.read_bytes() for path in paths}


def assert_logged_once(place: Path) -> None:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "killed"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    cells = [run.data.tags["adapad.cell"] for run in runs if "adapad.cell" in run.data.tags]
    assert sorted(cells) == sorted(lasting(place))
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_driver_killed_at_random_loses_nothing_and_doubles_nothing(spec_file: Path, tmp_path: Path) -> None:
    undisturbed = launch(spec_file, tmp_path / "undisturbed")
    output, _ = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, output
    draw, place = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        process = launch(spec_file, place)
        time.sleep(draw.uniform(8, 35))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    last = launch(spec_file, place)
    output, _ = last.communicate(timeout=600)
    assert last.returncode == 0, output
    assert lasting(place) == lasting(tmp_path / "undisturbed")
    assert_logged_once(place)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_whatever_is_killed_cells_of_several_workers_end_with_the_undisturbed_result(
    shared_cells: Path, tmp_path: Path
) -> None:
    undisturbed = launch(shared_cells, tmp_path / "undisturbed")
    output, _ = undisturbed.communicate(timeout=1200)
    assert undisturbed.returncode == 0, output
    expected, expected_files = lasting(tmp_path / "undisturbed"), files(tmp_path / "undisturbed")
    assert len(expected) == 3 and expected_files

    draw, kills, run = random.Random(0), Counter[str](), 0
    while run < RUNS or kills.total() < RUNS * KILLS_PER_RUN:
        run += 1
        place = tmp_path / f"run-{run}"
        began = time.monotonic()
        made = disturb(shared_cells, place, draw)
        kills += made
        print(f"run {run}: {dict(made)}, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201 - for `-s`
        assert lasting(place) == expected
        assert files(place) == expected_files
        assert_logged_once(place)
    assert kills.keys() == {*TITLES, "driver"}, kills


def disturb(spec: Path, place: Path, draw: random.Random) -> Counter[str]:
    """Launches a sweep, kills what it consists of in random order at random moments, and sees it to its end."""
    kills, family = Counter[str](), Family()
    deck = draw.sample([*TITLES, "driver", draw.choice([*TITLES])], k=KILLS_PER_RUN)
    process = launch(spec, place)
    while process.poll() is None:
        family.grow(process.pid)
        time.sleep(draw.uniform(1, 6) if deck else 1)
        alive = {role: family.members(title) for role, title in TITLES.items()} | {"driver": [process]}
        role = next((role for role in deck if alive[role]), None)
        if role is None or (not alive["board"] and draw.random() < 0.8):
            continue  # most kills are to hit a cell that is being computed, and a few what is just starting
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
        """Those that are alive and have `title` in their title."""
        found = []
        for process in self._known:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and title in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)
