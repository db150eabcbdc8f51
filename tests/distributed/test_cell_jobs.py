"""Whole cells in worker groups of a real cluster: the number of workers leaves no trace in what they write."""

import filecmp
import time
from pathlib import Path

import pytest
import torch
from pool_helpers import finish, processes, run_jobs

from adapad_ray.accelerator import AcceleratorMemoryError
from adapad_ray.distributed.cell_jobs import memory_advice
from adapad_ray.results import CellResult
from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.training.round_log import load_rounds

pytestmark = pytest.mark.xdist_group("clusters")

GROWING = {"initial_rank": 0, "local_steps": 2, "growth_interval": 4}
CASES = {
    "synchronous": MethodCase("adapad", 3 * COST_PER_RANK, config=GROWING),
    "stale": MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "staleness": 2}),
    "joint": MethodCase("lora", COST_PER_RANK),
    "nested": MethodCase("dylora", 3 * COST_PER_RANK, config={"update": "single"}),
}


def payload(case, folder, **changes):
    content = {"identity": case.identity().model_dump(mode="json"), "folder": str(folder), "base_model": "tiny"}
    return {**content, "checkpoint_seconds": 60.0, "checkpoint_rounds": None, **changes}


def result_in(folder):
    return CellResult.model_validate_json((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every case computed by one worker, in this process."""
    folder, threads = tmp_path_factory.mktemp("one-worker"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, case in CASES.items():
            case.run(folder / name)
    finally:
        torch.set_num_threads(threads)
    return folder


def test_two_workers_write_what_one_writes(pair, alone, tmp_path):
    """Four do so in `test_several_nodes.py`."""
    jobs = {name: payload(CASES[name], tmp_path / name) for name in ("synchronous", "stale")}
    assert {outcome.status for outcome in run_jobs(pair, jobs).values()} == {"done"}
    for name in ("synchronous", "stale"):
        assert result_in(tmp_path / name).cost.workers == 2
        assert_same_cell(tmp_path / name, alone / name)


def test_workers_without_a_common_folder_write_what_one_writes(pair, alone, tmp_path):
    """Each works in a copy of its own, and only the store holds all of the cell."""
    case, store = CASES["synchronous"], tmp_path / "store"
    pair.submit("remote", payload(case, f"file://{store}", checkpoint_rounds=1, checkpoint_seconds=0.1))
    assert finish(pair, "remote")["remote"].status == "done"
    assert_same_cell(store, alone / "synchronous")
    assert {rank: len(rounds) for rank, rounds in load_rounds(store).items()} == dict.fromkeys(
        range(2), len(load_rounds(alone / "synchronous")[0])
    )
    assert not (store / "checkpoint" / "checkpoint.safetensors").exists()


def test_a_cell_that_takes_too_long_fails_and_the_next_launch_continues_it(pair, alone, tmp_path):
    case, folder = CASES["synchronous"], tmp_path / "cell"
    limited = payload(case, folder, checkpoint_rounds=1, max_minutes=1e-6)
    error = run_jobs(pair, {"limited": limited})["limited"].error
    assert error.type == "TimeLimitError"
    assert error.message.startswith("it has not ended after 1e-06 minutes (max_minutes.cell), at step 2: allow more")
    assert (folder / "checkpoint" / "checkpoint.safetensors").exists()
    assert run_jobs(pair, {"more": payload(case, folder, max_minutes=10)})["more"].status == "done"
    assert len(load_rounds(folder)[0]) == len(load_rounds(alone / "synchronous")[0]), "the first round is not repeated"
    assert_same_cell(folder, alone / "synchronous")


def assert_same_cell(got: Path, expected: Path) -> None:
    fields = {"points", "train_loss", "growth", "budget_remainder"}
    assert result_in(got).model_dump(include=fields) == result_in(expected).model_dump(include=fields)
    for file in ("predictions.safetensors", "adapter/adapter_model.safetensors"):
        assert filecmp.cmp(got / file, expected / file, shallow=False)


def test_data_parallel_workers_agree_with_one_up_to_rounding(pair, alone, tmp_path):
    jobs = {name: payload(CASES[name], tmp_path / name) for name in ("joint", "nested")}
    assert {outcome.status for outcome in run_jobs(pair, jobs).values()} == {"done"}
    for name in ("joint", "nested"):
        got, expected = result_in(tmp_path / name), result_in(alone / name)
        assert got.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
        assert (got.cost.tokens, got.cost.lane_passes) == (expected.cost.tokens, expected.cost.lane_passes)


def titles():
    return {process.cmdline()[0] for process in processes(r"adapad:cell-\S+:worker-\d")}


def test_a_process_is_called_by_the_cell_that_it_computes(pair, tmp_path):
    expected = {f"ray::adapad:cell-named:worker-{rank}" for rank in range(2)}
    pair.submit("named", payload(MethodCase("lora", COST_PER_RANK, training={"epochs": 60}), tmp_path / "named"))
    deadline = time.monotonic() + 60
    while titles() != expected:
        assert time.monotonic() < deadline, titles()
    time.sleep(1.5)  # the queue and Ray call the actor twice a second, after which Ray would name it by its class
    assert titles() == expected
    assert finish(pair, "named")["named"].status == "done"
    assert not titles()


def test_a_cell_with_too_little_memory_says_what_needs_less():
    reason = "CUDA out of memory. Tried to allocate 20.00 MiB."
    with pytest.raises(AcceleratorMemoryError) as caught, memory_advice(CASES["joint"].identity()):
        raise torch.OutOfMemoryError(f"{reason}\nSee the documentation for Memory Management")
    assert str(caught.value) == (
        f"{reason} What needs less: a smaller training.micro_batch_size (passes have 8 examples), a smaller "
        "training.max_length (now 10), training.gradient_checkpointing: true, dtype: bfloat16"
    )
