"""Jobs whose worker dies are repeated, and so are cells that lose one of their workers or the board (invariant D3)."""

import filecmp
import os
import re
import signal
import time

import psutil
import pytest
import torch
from pool_helpers import end, finish, pid_in, processes, run_jobs

from adapad_ray.distributed import JobOutcome
from adapad_ray.results import CellResult
from adapad_ray.testing import COST_PER_RANK, MethodCase

pytestmark = pytest.mark.xdist_group("clusters")

EPOCHS = 20
CASE = MethodCase(
    "adapad",
    3 * COST_PER_RANK,
    config={"initial_rank": 0, "local_steps": 2, "growth_interval": 4, "staleness": 1},
    training={"epochs": EPOCHS},
)
STEPS = 6 * EPOCHS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("undisturbed"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        CASE.run(folder)
    finally:
        torch.set_num_threads(threads)
    return folder


def payload(case, folder):
    content = {"identity": case.identity().model_dump(mode="json"), "folder": str(folder), "base_model": "tiny"}
    return {**content, "checkpoint_seconds": 60.0, "checkpoint_rounds": 5}


@pytest.mark.parametrize(
    ("name", "title"),
    [("worker", "ray::adapad:cell-worker:worker-0"), ("board", "ray::EstimateBoard")],
    ids=["worker", "board"],
)
def test_a_cell_survives_the_death_of(name, title, pair, undisturbed, tmp_path):
    folder = tmp_path / "cell"
    pair.submit(name, payload(CASE, folder))
    outcome, resumed_at, killed = None, None, False
    while outcome is None:
        for event in pair.poll():
            if isinstance(event, JobOutcome):
                outcome = event
            elif event.attempt == 2 and resumed_at is None:
                resumed_at = event.data["step"]
            elif not killed and event.data["step"] > STEPS // 3 and (folder / "checkpoint").exists():
                processes(title)[0].kill()
                killed = True
    assert (outcome.status, outcome.attempts) == ("done", 2)
    assert resumed_at > STEPS // 6, "the second attempt went on from a checkpoint of the first"
    for name in ("predictions.safetensors", "adapter/adapter_model.safetensors", "prefix-1/adapter_model.safetensors"):
        assert filecmp.cmp(folder / name, undisturbed / name, shallow=False)
    got, expected = (
        CellResult.model_validate_json((place / "result.json").read_text()) for place in (folder, undisturbed)
    )
    fields = ("points", "train_loss", "growth", "budget_remainder")
    assert {f: getattr(got, f) for f in fields} == {f: getattr(expected, f) for f in fields}
    left = {path.name for path in folder.iterdir()} - {path.name for path in undisturbed.iterdir()}
    assert not left, "checkpoints and scratch files are gone"
    assert end("ray::EstimateBoard")


def test_divergence_ends_a_cell_on_all_its_workers_and_kills_none(pair, tmp_path):
    wild = MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 50}, training={"learning_rate": 3e38})
    tame = MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 2})
    before = run_jobs(pair, {"before": payload(tame, tmp_path / "before")})["before"]
    outcomes = run_jobs(pair, {"wild": payload(wild, tmp_path / "wild"), "tame": payload(tame, tmp_path / "tame")})
    error = outcomes["wild"].error
    assert (outcomes["wild"].status, error.type) == ("failed", "DivergedError")
    assert re.match(r"lane (\d+|reserve), step \d+: ", error.message)
    assert outcomes["tame"].status == "done"
    # The queue kills all workers of a group or none.
    assert outcomes["tame"].value["pid"] == before.value["pid"], "no worker was killed"


def test_a_job_whose_worker_is_killed_runs_again_and_the_others_go_on(pool, tmp_path):
    pool.submit("victim", {"sleep": 2.0, "pid_file": str(tmp_path / "pid")})
    pool.submit("neighbour", {"sleep": 2.0})
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
    outcomes = finish(pool, "victim", "neighbour")
    assert (outcomes["victim"].status, outcomes["victim"].attempts) == ("done", 2)
    assert (outcomes["neighbour"].status, outcomes["neighbour"].attempts) == ("done", 1)


def test_a_job_that_loses_its_accelerator_runs_again_in_another_process_and_its_own_ends(pool, tmp_path):
    pool.submit("asserts", {"accelerator_fails_on_attempt": 1, "pid_file": str(tmp_path / "pid")})
    first = pid_in(tmp_path / "pid")
    outcome = finish(pool, "asserts")["asserts"]
    assert (outcome.status, outcome.attempts) == ("done", 2)
    assert outcome.value["pid"] != first
    deadline = time.monotonic() + 10
    while psutil.pid_exists(first):
        assert time.monotonic() < deadline, "the process that lost its accelerator goes on"
        time.sleep(0.1)


def test_a_job_that_always_kills_its_worker_is_lost_after_max_attempts(pool):
    outcomes = run_jobs(pool, {"killer": {"die_on_attempt": 99}, "after": {}})
    killer = outcomes["killer"]
    assert (killer.status, killer.attempts, killer.error.type) == ("lost", 2, "WorkerDied")
    assert outcomes["after"].status == "done"
