"""Real faults: a second launch, a signal, a full disk, a folder that cannot be written, a trial that diverges."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient
from sweep_helpers import COMMAND, ONE_GROUP, adapad, assert_logged_once, lasting, launch

from adapad_ray.sweep.lock import HOLDER

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""
GOOD_RATE, WILD_RATE = 5e-3, 1e30


def own_mounts() -> bool:
    """Whether this user may mount a small disk in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_own_mounts = pytest.mark.skipif(not own_mounts(), reason="this user may not mount in a namespace of its own")


@pytest.fixture
def spec_file(tmp_path: Path, tiny_model: Path, reviews: Path) -> Path:
    content = {
        "name": "faults",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "cp": {}},
        "budgets": [RANK_1],
        "seeds": [0, 1, 2],
        "reference": False,
        "training": {"epochs": 4, "max_length": 32, "learning_rate": GOOD_RATE},
    }
    path = tmp_path / "faults.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def wait_for(path: Path, process: subprocess.Popen[str], pattern: str) -> None:
    """Until a file is there, while the sweep runs."""
    deadline = time.monotonic() + 300
    while not any(path.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_of_two_launches_the_second_is_refused_and_sigterm_ends_the_first_with_what_is_done(
    spec_file: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    folder = place / "runs" / "faults"
    first = launch(spec_file, place, ONE_GROUP)
    wait_for(folder, first, HOLDER)
    code, output = adapad("sweep", spec_file, "--out", folder)
    assert code == 2
    assert f"{folder} is in use by process {first.pid} on " in output and output.count("\n") == 1

    wait_for(folder, first, "cells/*/result.json")
    processes = psutil.Process(first.pid).children(recursive=True)
    os.kill(first.pid, signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert "interrupted; finished cells are kept" in output and "Traceback" not in output
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not left
    uri = f"sqlite:///{place}/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "faults"]
    assert "RUNNING" not in {run.info.status for run in client.search_runs([experiment.experiment_id])}

    done = lasting(folder)
    assert 0 < len(done) < 6
    code, output = adapad("sweep", spec_file, f"tracking={uri}", "--out", folder)
    assert code == 0, output
    assert f"{6 - len(done)} cells computed, {len(done)} reused, 0 failed" in output
    assert lasting(folder).items() >= done.items()
    assert_logged_once(uri, "faults", set(lasting(folder)))


@pytest.mark.soak
@needs_own_mounts
def test_a_disk_that_fills_up_costs_only_what_did_not_fit(spec_file: Path, tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    sweep = " ".join([*map(_quoted, COMMAND), "sweep", str(spec_file), ONE_GROUP, "--out", str(disk / "sweep")])
    steps = [
        f"mount -t tmpfs -o size=1150k tmpfs {disk}",
        # A launch refuses a disk with less than 1 MiB; this one fills up afterwards.
        f"(until [ -e {disk}/sweep/spec.yaml ]; do sleep 0.1; done; head -c 1030k /dev/zero > {disk}/ballast) &",
        f"{sweep} tracking=sqlite:///{tmp_path}/mlflow.db > {tmp_path}/full.txt 2>&1; echo $? >> {tmp_path}/full.txt",
        f"cp -r {disk}/sweep {kept}",
    ]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", "\n".join(steps)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=400)
    full = (tmp_path / "full.txt").read_text()
    assert full.splitlines()[-1] == "1", full
    reasons = [line.split(" failed: ")[1] for line in full.splitlines() if " failed: " in line]
    assert reasons and all("No space left on device" in reason for reason in reasons)
    assert "Traceback" not in full
    code, room = adapad("sweep", spec_file, f"tracking=sqlite:///{tmp_path}/mlflow.db", "--out", kept)
    assert code == 0, room
    assert len(lasting(kept)) == 6
    assert_logged_once(f"sqlite:///{tmp_path}/mlflow.db", "faults", set(lasting(kept)))


def _quoted(word: str) -> str:
    return f"'{word}'"


@needs_own_mounts
def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(spec_file: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    sweep = " ".join([*map(_quoted, COMMAND), "sweep", str(spec_file), "--out", str(disk / "sweep")])
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"mount -t tmpfs -o ro tmpfs {disk} && {sweep}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert result.stderr == f"adapad: output folder {disk}/sweep cannot be written: Read-only file system\n"
    assert not (tmp_path / "mlflow.db").exists()


def test_a_trial_that_diverges_has_failed_and_was_not_pruned_and_poisons_nothing(
    spec_file: Path, tmp_path: Path
) -> None:
    rates = {"choice": [GOOD_RATE, WILD_RATE]}
    tune = f"tune={{trials: 2, budget: {RANK_1}, space: {{learning_rate: {rates}}}}}"
    changes = ["methods={lora: {}}", "seeds=[0]", f"tracking=sqlite:///{tmp_path}/mlflow.db"]
    code, output = adapad("sweep", spec_file, tune, *changes, "--out", tmp_path / "tuned")
    assert code == 1
    assert "DivergedError" in output and "Traceback" not in output
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/tuned/optuna.db")
    (name,) = optuna.get_all_study_names(storage)
    states = {
        trial.params["learning_rate"]: trial.state.name
        for trial in optuna.load_study(study_name=name, storage=storage).trials
    }
    assert states == {GOOD_RATE: "COMPLETE", WILD_RATE: "FAIL"}

    code, _ = adapad("sweep", spec_file, *changes, "--out", tmp_path / "plain")
    assert code == 0
    results = lasting(tmp_path / "tuned")
    curve = {cell: result for cell, result in results.items() if result["identity"]["stage"] == "curve"}
    assert curve == lasting(tmp_path / "plain")
