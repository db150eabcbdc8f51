"""The contract of a method as tests that ship with the package: one subclass with one fixture covers a new method.

class TestMyMethod(MethodConformance):
    @pytest.fixture(params=[MethodCase("my_method", budget=1792)], ids=str)
    def case(self, request):
        return request.param
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.adapters.lane import RESERVE
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.testing.cases import MethodCase, finished, uninterrupted
from adapad_ray.testing.comparison import (
    adapter_tensors,
    assert_same_training,
    backbone_weights,
    compact_tensors,
    files,
    lasting,
    logits,
    predictions,
    trained_groups,
    untouched_logits,
    zeroed,
)
from adapad_ray.testing.packed_cells import PackedCells
from adapad_ray.testing.tiny import COST_PER_RANK
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.passes.lane_passes import DivergedError


class MethodConformance:
    """The invariants of every method. A subclass defines a fixture `case` that returns a `MethodCase`."""

    # 1. Attached and untouched, the model's outputs equal the backbone's.

    def test_attached_and_untouched_the_outputs_are_the_backbones(self, case: MethodCase) -> None:
        if case.make().parent() is not None:
            pytest.skip("a post-hoc method attaches the parent's trained adapter")
        trainer, expected = case.trainer(), untouched_logits(case.pooling, case.architecture)
        trainer.start()
        for lane in [*trainer.method.lanes(0), *(d.lane for d in trainer.method.deployables())]:
            trainer.adapted.use(lane)
            assert np.array_equal(logits(trainer.adapted.model), expected), f"{lane} changes the outputs"

    # 2. Deployed parameters stay within the budget, and the count is that of the stored file.

    def test_the_budget_holds_at_every_step(self, case: MethodCase) -> None:
        method, limit = case.make(), case.limit
        trainer, plan = case.trainer(), method.plan()
        trainer.start()
        for step in range(1, trainer.total_steps + 1):
            assert len(trainer.method.lanes(step - 1)) <= plan.lanes
            trainer.run(stop_at=step)
            for deployable in trainer.method.deployables():
                deployed = trainer.adapted.deployed_parameters(deployable.lane)
                assert deployed <= limit, f"{deployed} parameters after step {step}"
        assert trainer.adapted.deployed_parameters(trainer.method.deployables()[0].lane) <= plan.parameters
        peak = trainer.record.peak_parameters
        assert peak <= plan.peak_parameters, f"{peak} parameters in training, {plan.peak_parameters} planned"
        assert plan.ranks is None or trainer.adapted.ranks == dict.fromkeys(trainer.adapted.ranks, 0) | plan.ranks
        method.check_rank("rank", plan.ranks)

    def test_the_count_is_what_the_exported_file_holds(self, case: MethodCase) -> None:
        result, folder = finished(case)
        limit = case.limit
        assert result.final.parameters <= limit
        assert result.budget_remainder == limit - result.final.parameters
        sizes = [point.parameters for point in result.points]
        assert sizes == sorted(set(sizes), reverse=True)
        for point in result.points:
            stored = adapter_tensors(folder, point)
            adapter = {name: t for name, t in stored.items() if ".lora_" in name}
            own = compact_tensors(folder, point) or adapter
            assert point.adapter is None or point.parameters == sum(t.numel() for t in own.values())
            head = sum(t.numel() for name, t in stored.items() if ".lora_" not in name)
            assert point.adapter is None or point.head_parameters == head

    def test_the_deployed_model_is_the_trained_one(self, case: MethodCase) -> None:
        """Every component acts as trained last, and all that was trained makes a difference to what is deployed."""
        trainer = uninterrupted(case)
        final = trainer.method.deployables()[0].lane
        layers = trainer.adapted.layers if isinstance(trainer.adapted, AdaptedModel) else {}
        for layer in layers.values():
            for k, block in enumerate(layer.active(), start=1):
                a, b = block.vectors()
                live = k in final.live or (torch.equal(a, block.published_a) and torch.equal(b, block.published_b))
                assert final.acts(k) and live
        trainer.adapted.use(final)
        trained = logits(trainer.adapted.model)
        assert not np.array_equal(trained, untouched_logits(case.pooling, case.architecture))
        adapted = copy.deepcopy(trainer.adapted)
        groups, ranks = trained_groups(adapted), adapted.ranks
        assert groups.keys() >= {name for name, rank in ranks.items() if rank} | adapted.heads.keys()
        for name in groups.keys() - {name for name, rank in ranks.items() if rank == 0}:
            with zeroed(adapted, groups[name]):
                assert not np.array_equal(logits(adapted.model), trained), f"{name} has no effect when deployed"
        assert np.array_equal(logits(adapted.model), trained)

    # 3. PEFT reads the exported adapter.

    def test_peft_gives_the_same_logits_from_the_exported_folder(self, case: MethodCase) -> None:
        result, folder = finished(case)
        predicted = load_file(folder / "predictions.safetensors")
        assert all((point.adapter is not None) == METHODS[case.method].budgeted for point in result.points)
        for point in (p for p in result.points if p.adapter is not None):
            trained = predicted[f"test/{point.key}"].numpy()
            for merged in (False, True):
                model = peft.PeftModel.from_pretrained(case.backbone().model, folder / str(point.adapter))
                loaded = logits(model.merge_and_unload() if merged else model)
                np.testing.assert_allclose(loaded, trained, rtol=0, atol=1e-5)

    def test_every_exported_module_has_an_explicit_rank_and_scale(self, case: MethodCase) -> None:
        result, folder = finished(case)
        for point in (p for p in result.points if p.adapter is not None):
            config = json.loads((folder / str(point.adapter) / "adapter_config.json").read_text())
            assert all(point.ranks.values()), "a module of rank 0 is exported"
            assert set(config["target_modules"]) == point.ranks.keys()
            anchored = {f"^{re.escape(name)}$": rank for name, rank in point.ranks.items()}
            assert config["rank_pattern"] == config["alpha_pattern"] == anchored
            assert config["r"] == config["lora_alpha"] == max(point.ranks.values())
            stored = adapter_tensors(folder, point)
            shapes = {name: t.shape[0] for name, t in stored.items() if ".lora_A." in name}
            assert shapes == {f"base_model.model.{name}.lora_A.weight": rank for name, rank in point.ranks.items()}

    # 4. A training that stops at any step and resumes gives the uninterrupted result.

    def test_stopping_after_every_step_and_resuming_changes_nothing(self, case: MethodCase, tmp_path: Path) -> None:
        whole = uninterrupted(case)
        saved = None
        for step in range(1, max(1, whole.total_steps) + 1):
            part = case.trainer()
            if saved is None:
                part.start()
            else:
                part.resume(saved)
            part.run(stop_at=step)
            part.checkpoint().save(tmp_path / CHECKPOINT)
            saved = Checkpoint.load(tmp_path / CHECKPOINT)
        assert_same_training(part, whole)

    def test_a_stopped_cell_ends_with_the_uninterrupted_result(self, case: MethodCase, tmp_path: Path) -> None:
        """At one step; the steps between are those of the trainings above."""
        expected, whole = finished(case)
        trainer = case.trainer()
        trainer.batches.in_step = case.identity().packed  # as in a cell
        trainer.start()
        trainer.run(stop_at=9)
        trainer.checkpoint().save(tmp_path / CHECKPOINT)
        assert lasting(case.run(tmp_path)) == lasting(expected)
        assert files(tmp_path) == files(whole)

    # 5. The same seed gives the same result, whatever else the process has run.
    # 6. Divergence is reported, ends its cell alone, and affects no other.

    def test_the_seed_decides_and_earlier_cells_on_the_backbone_do_not(self, case: MethodCase, tmp_path: Path) -> None:
        """One of them has another seed, and the other diverges."""
        expected, alone = finished(case)
        workspace = case.workspace()
        before = backbone_weights(workspace.backbone)
        case.run(tmp_path / "before", workspace, seed=1)
        wild = {**case.identity().training, "learning_rate": 3e38}
        with pytest.raises(DivergedError, match=r"^lane .+, step \d+: "):
            case.run(tmp_path / "diverged", workspace, training=wild)
        assert not (tmp_path / "diverged" / RECORD).exists()
        torch.rand(3)  # nothing depends on the global generator
        again = case.run(tmp_path / "after", workspace)
        assert lasting(again) == lasting(expected)
        assert files(tmp_path / "after") == files(alone)
        assert predictions(tmp_path / "before") != predictions(alone)
        after = backbone_weights(workspace.backbone)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

    def test_detaching_gives_the_backbone_back(self, case: MethodCase) -> None:
        trainer = case.trainer()
        model = trainer.adapted.model
        trainer.adapted.detach()
        before, structure = copy.deepcopy(model.state_dict()), str(model)
        trainer = case.trainer()
        trainer.start()
        trainer.run(stop_at=4)
        trainer.adapted.detach()
        after = trainer.adapted.model.state_dict()
        assert str(trainer.adapted.model) == structure
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

    def test_poisoned_weights_are_reported_where_they_are(self, case: MethodCase) -> None:
        if case.make().parent() is not None:
            pytest.skip("a post-hoc method trains nothing; the parent is a cell of another method")
        trainer = case.trainer()
        trainer.start()
        trainer.run(stop_at=4)
        lane = trainer.method.lanes(4)[-1]
        with torch.no_grad():
            trainer.adapted.parameters(lane)[-1].fill_(float("nan"))
        name = "reserve" if lane.index == RESERVE else str(lane.index)
        with pytest.raises(DivergedError, match=f"^lane {name}, step 4: "):
            trainer.run()

    def test_divergence_in_the_last_step_is_reported_too(self, case: MethodCase, tmp_path: Path) -> None:
        last = {**case.identity().training, "learning_rate": 3e38, "epochs": 0.1, "warmup_fraction": 0.0}
        with pytest.raises(DivergedError, match=r"^lane .+, step \d+: "):
            case.run(tmp_path, training=last)
        assert not (tmp_path / RECORD).exists()

    # 7. Beside other cells, whose lanes share its passes, it computes what it computes alone.

    def test_beside_another_cell_it_computes_what_it_computes_alone(self, case: MethodCase) -> None:
        if not METHODS[case.method].shares_passes or case.make().parent() is not None:
            pytest.skip("its cells train alone")
        alone, training = uninterrupted(case), {**case.training, "epochs": 1}
        budget = case.budget or COST_PER_RANK
        beside = replace(case, method="lora", budget=budget, config={"allocation": "random"}, training=training)
        cells = PackedCells([case.trainer, partial(beside.trainer, 1)], case.backbone(), case.slots_per_pass + 1)
        assert not cells.run()
        losses, state = cells.results()[0]
        rounding = 1e-4 if case.precision == "full" else 3e-2
        np.testing.assert_allclose(losses, alone.record.losses, rtol=0, atol=rounding)
        expected = alone.adapted.state()
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=10 * rounding)

    # 8. A bad request fails before training with one clear message.

    def test_a_budget_below_the_minimum_is_a_gap(self, case: MethodCase, tmp_path: Path) -> None:
        if not METHODS[case.method].budgeted:
            pytest.skip("the method has no budget")
        with pytest.raises(BudgetTooSmallError) as planned:
            case.make(budget=1).plan()
        assert "budget 1 " in str(planned.value) and "\n" not in str(planned.value)
        with pytest.raises(BudgetTooSmallError):
            case.run(tmp_path, budget=1)
        assert not list(tmp_path.iterdir())

    def test_a_rank_above_a_dimension_is_rejected(self, case: MethodCase, tmp_path: Path) -> None:
        if case.impossible is None:
            pytest.skip("the case requests no impossible rank")
        config = METHODS[case.method].Config(**{**case.config, **case.impossible}).model_dump()
        with pytest.raises(BadRequestError, match=r"above the dimension 32 of ") as rejected:
            case.make(config=config).plan()
        assert not isinstance(rejected.value, BudgetTooSmallError) and "\n" not in str(rejected.value)
        with pytest.raises(BadRequestError):
            case.run(tmp_path, config=config)
        assert not list(tmp_path.iterdir())
