"""`adapad submit` on a real cluster: authentication, results, exit codes, and failures of terminal and nodes."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from clusters import Head, wait_until

from adapad_ray.report.records import load_results
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("clusters")

CELLS = 4


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Shared storage, with the model; results go there too."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(tiny_model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, shared: Path, reviews: Path) -> Path:
    """A sweep whose data are on this machine only."""
    folder = tmp_path_factory.mktemp("laptop")
    shutil.copy(reviews, folder / "reviews.csv")
    content = {
        "name": "submitted",
        "model": str(shared / "model"),
        "pooling": "mean",
        "task": {"train": str(folder / "reviews.csv"), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {"local_steps": 2, "initial_rank": 0}},
        "budgets": [2000],
        "seeds": [0, 1],
        "reference": False,
        "training": {"epochs": 3, "max_length": 32},
        "checkpoint": {"seconds": 1},
        "storage": str(shared / "runs"),
        "tracking": f"sqlite:///{shared}/mlflow.db",
    }
    path = folder / "submitted.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def first(head: Head, spec: Path, shared: Path) -> str:
    """Output of the first job."""
    process = head.submit(spec, "--shared", shared)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def test_a_missing_or_wrong_token_or_address_is_one_line(head, spec, shared):
    cases = {
        "requires a token and this machine has none: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN": {
            "RAY_AUTH_TOKEN": "",
            "RAY_AUTH_MODE": "",
        },
        "rejected the token of this machine": {"RAY_AUTH_TOKEN": "f" * 48},
    }
    running = {message: head.submit(spec, "--shared", shared, **change) for message, change in cases.items()}
    wrong_address = ["submit", spec, "--shared", shared, "--address", f"http://127.0.0.1:{free_port()}"]
    running["no Ray job server answers at"] = head.adapad(*wrong_address)
    for message, process in running.items():
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2, output
        assert message in " ".join(output.split())
        assert "Traceback" not in output


def test_the_log_is_printed_and_the_results_are_on_shared_storage(first, shared):
    assert re.search(r"^job adapad-submitted-\w+$", first, re.M)
    assert f"{CELLS} cells computed, 0 reused, 0 failed." in first
    folder = shared / "runs" / "submitted"
    assert len(load_results(folder)) == CELLS
    assert (folder / "report.html").stat().st_size and (shared / "mlflow.db").stat().st_size
    resolved = yaml.safe_load((folder / "spec.yaml").read_text())
    assert resolved["task"]["train"].startswith("data/task.train/"), "the job's own copy"


def test_a_second_job_computes_nothing(first, head, spec, shared):
    process = head.submit(spec, "--shared", shared)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and f"All {CELLS} cells are finished: nothing to compute." in output


def test_a_bad_request_on_the_cluster_is_the_exit_code_of_the_command(first, head, spec, shared):
    """The folder belongs to a sweep of another model, which only the cluster can check."""
    shutil.copytree(shared / "model", shared / "other", dirs_exist_ok=True)
    process = head.submit(spec, f"model={shared / 'other'}", "--shared", shared)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    assert "belongs to a sweep with model" in output


def test_a_job_finishes_after_its_terminal_and_one_of_two_nodes_are_killed(first, head, spec, shared):
    """Both are killed while cells run on both nodes."""
    node = head.add_node(cpus=1)
    process = head.submit(spec, "name=robust", "training.epochs=300", "seeds=[0,1,2]", "--shared", shared)
    assert process.stdout is not None
    job = next(line for line in process.stdout if line.startswith("job ")).split()[1]
    folder = shared / "runs" / "robust" / "cells"
    wait_until(lambda: running(folder) >= 3, "cells on both nodes")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.parent.name for path in folder.glob("*/result.json")}
    node.kill()
    wait_until(lambda: status(head, job) in ("SUCCEEDED", "FAILED", "STOPPED"), "end of the job", 300)
    assert status(head, job) == "SUCCEEDED"
    results = {result.id for result in load_results(folder.parent)}
    assert len(results) == 6 and before <= results


def running(cells: Path) -> int:
    return sum(not (path.parent / "result.json").exists() for path in cells.glob("*/rounds"))


def status(head: Head, job: str) -> str:
    import urllib.request

    request = urllib.request.Request(
        f"{head.address}/api/jobs/{job}", headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(json.load(reply)["status"])
