"""The three forms of workers: what each trains, what each sees, and what all of them hold in the end."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.testing import COST_PER_RANK, MethodCase, assert_same_training, uninterrupted
from adapad_ray.training.cell.method import workers_for
from adapad_ray.training.checkpoint import Checkpoint, CheckpointPolicy
from adapad_ray.training.workers import Alone, ComponentParallel, DataParallel, Share
from tests.distributed.threads import Connections, train_together

ADAPAD = MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2})
LORA = MethodCase("lora", 2 * COST_PER_RANK, {"dropout": 0.0})


@pytest.mark.parametrize(("case", "form"), [(ADAPAD, ComponentParallel), (LORA, DataParallel)], ids=str)
def test_the_method_decides_the_form_of_several_workers(case, form):
    connections = Connections(2)
    assert type(workers_for(case.make(), connections.exchange(1))) is form
    assert type(workers_for(case.make(), None)) is Alone
    assert type(workers_for(case.make(), Connections(1).exchange(0))) is Alone


def test_a_method_that_trains_in_one_worker_rejects_more():
    method = LORA.make()
    method.parallel = None
    with pytest.raises(BadRequestError, match=r"resources\.workers is 2, but lora as configured trains in one worker"):
        workers_for(method, Connections(2).exchange(0))


def test_every_lane_has_one_owner_and_the_tail_belongs_to_rank_0():
    forms = [Connections(3).component_parallel(rank) for rank in range(3)]
    for position in range(8):
        assert [form.rank for form in forms if form.trains(position)] == [position % 3]
    assert [form.leads for form in forms] == [True, False, False]


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_data_parallel_workers_share_out_a_batch(size):
    rows = np.arange(100, 100 + size)
    forms = [Connections(3).data_parallel(rank) for rank in range(3)]
    assert sorted(np.concatenate([form.rows(rows) for form in forms])) == rows.tolist()
    assert np.array_equal(Alone().rows(rows), rows)
    assert np.array_equal(Connections(3).component_parallel(1).rows(rows), rows)


def test_data_parallel_workers_sum_losses_sizes_and_gradients():
    class Twin(DataParallel):
        """The other worker holds the same values."""

        def all_reduce(self, flat):
            flat.mul_(2)

    workers = Twin(Connections(2).exchange(0))
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    used.grad = torch.arange(4.0).view(2, 2)
    loss, size = workers.reduce(torch.tensor(0.5), (7, 9), [used, unused])
    assert float(loss) == 1.0 and size == (14, 18)
    assert torch.equal(used.grad, 2 * torch.arange(4.0).view(2, 2)) and torch.equal(unused.grad, torch.zeros(3))
    assert workers.traffic.bytes_published == workers.traffic.bytes_fetched == 4 * (3 + 4 + 3)


@pytest.mark.parametrize("workers", [2, 3])
def test_data_parallel_workers_agree_with_one_up_to_rounding(workers):
    expected = uninterrupted(LORA)
    trainers = train_together(LORA, workers)
    for trainer in trainers:
        np.testing.assert_allclose(trainer.record.losses, expected.record.losses, rtol=1e-4)
        work, alone = trainer.record.work, expected.record.work
        assert (work.lane_passes, work.tokens) == (alone.lane_passes, alone.tokens)
        assert_same_training(trainer, trainers[0])


def test_each_data_parallel_worker_drops_other_values():
    draws = []
    for rank in range(2):
        trainer = LORA.trainer(workers=Connections(2).data_parallel(rank))
        trainer.start()
        draws.append(torch.rand(4, generator=trainer.dropout(trainer.method.lanes(0)[0])))
    alone = LORA.trainer()
    alone.start()
    draws.append(torch.rand(4, generator=alone.dropout(alone.method.lanes(0)[0])))
    assert not any(torch.equal(a, b) for a, b in [draws[:2], draws[1:], draws[::2]])


def test_only_rank_0_of_data_parallel_workers_saves_and_any_form_resumes(tmp_path):
    trained = train_together(LORA, 2, checkpoint=tmp_path / "checkpoint", policy=CheckpointPolicy(rounds=4), stop_at=10)
    saved = Checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None and saved.meta["step"] == 8 and trained[0].step == 10
    whole = uninterrupted(LORA)
    for trainer in train_together(LORA, 2, resume=saved):
        np.testing.assert_allclose(trainer.record.losses, whole.record.losses, rtol=1e-4)
    alone = LORA.trainer()
    alone.resume(saved)
    np.testing.assert_allclose(alone.run().losses, whole.record.losses, rtol=1e-4)


@pytest.mark.parametrize("case", [ADAPAD, LORA], ids=lambda case: case.method)
def test_workers_pause_together_and_any_number_resumes(case, tmp_path):
    """Without a policy that would save there."""
    paused = train_together(case, 2, checkpoint=tmp_path / "checkpoint", pause_at=6)
    assert {trainer.step for trainer in paused} == {6}
    alone = case.trainer()
    alone.start()
    alone.run(pause_at=6)
    expected, (leader, *_) = alone.checkpoint().tensors, paused
    means = {name: mean for name, mean in leader.checkpoint().tensors.items() if name.startswith("average|")}
    assert means and means.keys() == {name for name in expected if name.startswith("average|")}
    for name, mean in means.items():
        torch.testing.assert_close(mean, expected[name], rtol=0, atol=0 if case is ADAPAD else 1e-6)
    saved = Checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None and saved.meta["step"] == 6
    alone = case.trainer()
    alone.resume(saved)
    np.testing.assert_allclose(alone.run().losses, uninterrupted(case).record.losses, rtol=1e-4)
    if case is ADAPAD:
        assert_same_training(alone, uninterrupted(case))


def test_workers_collect_by_rank():
    with Connections(2) as connections:
        forms = [connections.component_parallel(0), connections.data_parallel(1)]
        with ThreadPoolExecutor(2) as pool:
            gathered = list(pool.map(lambda form: form.collect(0, Share({}, form.rank)), forms))
    assert [[share.meta for share in shares] for shares in gathered] == [[0, 1], [0, 1]]
    (share,) = Alone().collect(0, Share({}, "mine"))
    assert share.meta == "mine"
