"""Invariant D3 for what a pool can lose in the middle of a cell that several workers share: a worker, or the board."""

import filecmp
import re

import pytest
import ray
import torch
from pool_helpers import WORKER, end, finish, processes

from adapad_ray.distributed import JobOutcome, WorkerPool
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.results import CellResult
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task

pytestmark = pytest.mark.xdist_group("clusters")

EPOCHS = 80
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


@pytest.fixture(scope="module")
def pair(cluster):
    """A group of two workers."""
    shared = {"backbone": ray.put(share_backbone(tiny_backbone())), "data": ray.put(tiny_task())}
    with WorkerPool(open_workspace, compute, workers=2, shared=shared, max_attempts=2, name="kills") as pool:
        pool.wait_ready()
        yield pool


def payload(case, folder):
    content = {"identity": case.identity().model_dump(mode="json"), "folder": str(folder), "base_model": "tiny"}
    return {**content, "checkpoint_seconds": 60.0, "checkpoint_rounds": 5}


@pytest.mark.parametrize(
    ("name", "title"), [("worker", WORKER), ("board", "ray::EstimateBoard")], ids=["worker", "board"]
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


def test_divergence_ends_a_cell_for_all_its_workers_and_none_of_them(pair, tmp_path):
    pair.wait_ready()
    workers = {process.pid for process in processes(WORKER)}
    wild = MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 50}, training={"learning_rate": 3e38})
    tame = MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 2})
    pair.submit("wild", payload(wild, tmp_path / "wild"))
    pair.submit("tame", payload(tame, tmp_path / "tame"))
    outcomes = finish(pair)
    error = outcomes["wild"].error
    assert (outcomes["wild"].status, error.type) == ("failed", "DivergedError")
    assert re.match(r"lane (\d+|reserve), step \d+: ", error.message)
    assert outcomes["tame"].status == "done"
    assert {process.pid for process in processes(WORKER)} == workers, "nobody had to be killed"
