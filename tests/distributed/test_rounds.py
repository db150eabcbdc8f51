"""The rounds that the workers of a cell log: every round of every worker once, whatever was killed on the way."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from threads import Connections, train_together

from adapad_ray.cost.worker_scaling import expected_phases, lane_traffic
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace
from adapad_ray.training.cell import CellRequest, run_cell
from adapad_ray.training.checkpoint import CheckpointPolicy
from adapad_ray.training.round_log import RoundLog, load_rounds
from adapad_ray.training.workers import AttemptLostError

CASE = MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 0, "local_steps": 2, "growth_interval": 4})
ROUNDS = [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12), (7, 14), (8, 15)]
"""Number of each round and the optimizer steps done at its end: 15 steps by two."""


class Killed(Exception):
    """Stands for the end of the process."""


def run_together(folder, workers, kill_at=None):
    """Runs the cell with several workers in threads; its worker 0 is killed at a step, and the board with it."""
    workspaces = [tiny_workspace() for _ in range(workers)]
    request = CellRequest("cell", CASE.identity(), folder, "tiny", checkpoints=CheckpointPolicy(rounds=2))

    def kill(data):
        if data["step"] == kill_at:
            raise Killed

    def work(rank):
        exchange = None if workers == 1 else connections.exchange(rank)
        try:
            return run_cell(request, workspaces[rank], exchange=exchange, on_progress=None if rank else kill)
        except Killed:
            connections.close()
        except AttemptLostError:
            pass
        return None

    with Connections(workers) as connections, ThreadPoolExecutor(workers) as pool:
        first, *_ = pool.map(work, range(workers))
        return first


def lasting(rounds):
    """What does not depend on time or on who trained what."""
    return [(r.round, r.step, r.parameters, r.staleness) for r in rounds]


def losses(by_rank):
    """(round, lane) → loss over all workers; a lane belongs to one of them."""
    found = {}
    for rounds in by_rank.values():
        for r in rounds:
            for lane, loss in r.losses.items():
                assert found.setdefault((r.round, lane), loss) == loss
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_together(folder, 1), load_rounds(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_cell_keeps_every_round_once(undisturbed, workers, tmp_path):
    alone, expected = undisturbed
    for step in (6, 12):
        assert run_together(tmp_path, workers, kill_at=step) is None
    result = run_together(tmp_path, workers)
    assert result.train_loss == alone.train_loss
    rounds = load_rounds(tmp_path)
    assert rounds.keys() == set(range(workers))
    for mine in rounds.values():
        assert [(r.round, r.step) for r in mine] == ROUNDS
        assert lasting(mine) == lasting(expected[0])
    assert losses(rounds) == losses(expected)
    assert sum(r.tokens for mine in rounds.values() for r in mine) == result.cost.tokens
    for rank, mine in rounds.items():
        assert result.cost.per_worker[rank].compute_seconds == pytest.approx(sum(r.compute_seconds for r in mine))


def test_a_cell_that_goes_on_with_fewer_workers_drops_what_the_others_would_repeat(tmp_path):
    run_together(tmp_path, 2, kill_at=12)
    result = run_together(tmp_path, 1)
    rounds = load_rounds(tmp_path)
    assert [(r.round, r.step) for r in rounds[0]] == ROUNDS
    assert [(r.round, r.step) for r in rounds[1]] == ROUNDS[: len(rounds[1])]
    assert 0 < len(rounds[1]) < 6
    assert [cost.rank for cost in result.cost.per_worker] == [0]


def test_the_mean_losses_of_a_rounds_lanes_are_those_of_its_steps(tmp_path):
    """Rounds of one step: there the losses of the lanes add up to the loss on record."""
    case = MethodCase("adapad", 2 * COST_PER_RANK, {"initial_rank": 2, "local_steps": 1})
    result = case.run(tmp_path)
    rounds = load_rounds(tmp_path)[0]
    assert [set(r.losses) for r in rounds] == [{1, 2}] * 15
    assert [sum(r.losses.values()) for r in rounds] == pytest.approx(result.train_loss)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_fetch_as_many_bytes_a_round_as_a_plan_expects(workers, tmp_path):
    case = MethodCase("adapad", 4 * COST_PER_RANK, {"initial_rank": 4, "local_steps": 1})
    (*_, settled) = expected_phases(case.make())
    assert (settled.components, settled.published, settled.estimate_bytes) == (4, 4, 4 * COST_PER_RANK)
    trainers = train_together(case, workers, prepare=lambda trainers: watch(trainers, tmp_path))
    _, received = lane_traffic(settled, workers)
    for rank, rounds in load_rounds(tmp_path).items():
        swapped = rounds[4:-1]  # from round 4 on all lanes publish, and after the last round all gather
        assert len(swapped) == trainers[0].total_steps - 5
        assert {r.bytes_fetched for r in swapped} == {received[rank] * settled.estimate_bytes}


def watch(trainers, folder):
    for rank, trainer in enumerate(trainers):
        trainer.observer = RoundLog(folder, rank)
