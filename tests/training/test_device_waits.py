"""No step waits for the device: each method trains on `meta`, where a wait can be seen, and keeps within its budget."""

from dataclasses import dataclass, replace

import pytest
import torch

from adapad_ray.methods import METHODS
from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.testing.stand_in_device import Watch, watched

MODULES = 12


@dataclass(frozen=True)
class Budget:
    """The most waits that one case may have."""

    case: MethodCase
    end: int = 1
    """At the end of a round: losses and norms of all lanes, and the movements of the estimates where there are any."""
    decision: int = 0
    """More of them where the round ends with a decision about ranks."""
    step: int = 0
    """Within a step."""

    def __str__(self) -> str:
        return str(self.case)


BUDGETS = [
    Budget(MethodCase("lora")),
    Budget(MethodCase("lora", 2 * 704, architecture="gpt2")),
    Budget(MethodCase("lora", 2 * 704, architecture="falcon")),
    Budget(MethodCase("lora", config={"dropout": 0.0}, pooling="own", training={"gradient_checkpointing": True})),
    Budget(MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 3, "initial_rank": 3}), end=2),
    Budget(MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2, "growth_start": 0.5}), end=2, decision=2),
    Budget(
        MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2, "growth_score": "reserve", "growth_interval": 4}),
        end=2,
        decision=1,
    ),
    Budget(MethodCase("adapad", 2 * COST_PER_RANK, {"local_steps": 3, "joint_fraction": 0.2}), end=2, decision=2),
    Budget(  # the first pack is compared with a lane alone
        MethodCase("adapad", 4 * COST_PER_RANK, {"local_steps": 3, "growth_start": 0.4}, slots_per_pass=3),
        end=2,
        decision=2,
        step=1,
    ),
    Budget(MethodCase("sequential"), end=2),
    Budget(MethodCase("dylora", 4 * COST_PER_RANK)),
    Budget(MethodCase("dylora", 4 * COST_PER_RANK, {"update": "single"}), end=2),
    Budget(MethodCase("increlora"), decision=1),
    Budget(MethodCase("fim", config={"calibration_steps": 4}), decision=1),
    Budget(MethodCase("gora", config={"calibration_steps": 4}), decision=1),
    Budget(MethodCase("ard", 4 * COST_PER_RANK, {"rank_interval": 3}), decision=1),
    Budget(MethodCase("ard", 3 * COST_PER_RANK, {"unit": "module", "rank_interval": 2}), decision=1),
    Budget(MethodCase("adalora"), step=1 + MODULES + 1),  # PEFT's allocator
    Budget(MethodCase("cp", 1000)),
    Budget(MethodCase("melora")),
    Budget(MethodCase("dora", 2500)),
    Budget(MethodCase("full", None)),
    Budget(MethodCase("head_only", None)),
]


def test_every_method_that_trains_has_a_budget() -> None:
    assert {budget.case.method for budget in BUDGETS} == METHODS.keys() - {"para"}, "para cuts a trained adapter"


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_round_waits_when_it_ends_and_not_before(budget: Budget) -> None:
    case = replace(budget.case, training={"epochs": 1, **budget.case.training})
    trainer = case.trainer(device="meta")
    with watched() as watch:
        trainer.start()
        train_step = trainer.train_step

        def step() -> None:
            before = watch.waits.total()
            train_step()
            assert watch.waits.total() - before <= budget.step, watch.waits
            watch.waits.clear()

        trainer.train_step = step  # type: ignore[method-assign]
        while trainer.step < trainer.total_steps:
            end = min(trainer.step + trainer.method.local_steps, trainer.total_steps)
            decides = budget.case.method == "ard" or trainer.method.grows(end)
            trainer.run(stop_at=end)
            assert 0 < watch.waits.total() <= budget.end + decides * budget.decision, watch.waits
            watch.waits.clear()
    assert not watch.mixed


def test_the_stand_in_sees_waits_and_mixed_devices() -> None:
    there, here = torch.ones(2, device="meta"), torch.ones(2)
    waits = [
        lambda: float(there.sum()),
        lambda: bool(there.isfinite().all()),
        there.tolist,
        there.cpu,
        lambda: here.to("meta"),
        lambda: there.copy_(here),
        lambda: here.copy_(there),
        there.nonzero,
    ]
    for wait in waits:
        with watched() as watch:
            wait()
        assert watch.waits.total() == 1
    with watched() as watch:
        here.to("meta", non_blocking=True)
        there.copy_(here, non_blocking=True)
        there.mul_(2).sum()
    assert not watch.waits and not watch.mixed
    with Watch() as mixing, pytest.raises(RuntimeError, match="device"):
        torch.cat([here, there])
    assert mixing.mixed.total() == 1
