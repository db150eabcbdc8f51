"""The contract of a method as tests that ship with the package: one subclass and one fixture cover a new method.

    class TestMyMethod(MethodConformance):
        @pytest.fixture(params=[MethodCase("my_method", budget=1792)], ids=str)
        def case(self, request):
            return request.param

Everything runs on a two-layer BERT with random weights, so a case takes seconds. Needs pytest (the extra `test`).
"""

from __future__ import annotations

import copy
import functools
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from adapad_ray.adapters.lane import RESERVE
from adapad_ray.adapters.load import load_adapter
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS, Method
from adapad_ray.models import (
    Backbone,
    Pooling,
    backbone_parameters,
    initialise_head,
)
from adapad_ray.models.target_modules import target_modules
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.results import CellIdentity, CellResult, Point
from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.tasks import EncodedSplit, TaskData
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import CellRequest, Workspace, make_method, parent_identity, run_cell
from adapad_ray.training.cell.evaluation import predict
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import DivergedError, Trainer

VOCABULARY = 100
COST_PER_RANK = 896
"""Parameters of one component on each of the 12 modules of `tiny_backbone`."""
TRAINING = {"epochs": 2.5, "batch_size": 8, "max_length": 10, "learning_rate": 1e-2}
"""15 optimizer steps on `tiny_task`."""


@dataclass(frozen=True, eq=False)
class MethodCase:
    """One configuration of a method that has to keep the contract on `tiny_backbone` and `tiny_task`."""

    method: str
    budget: int | None = 2 * COST_PER_RANK
    config: Mapping[str, Any] = field(default_factory=dict)
    impossible: Mapping[str, Any] | None = None
    """Settings that ask for a rank above a dimension (32 here), where the method has such settings."""
    pooling: Pooling = "mean"
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that differ from `TRAINING`."""

    def __str__(self) -> str:
        settings = [f"{key}={value}" for key, value in {**self.config, **self.training}.items()]
        return " ".join([self.method, str(self.budget), self.pooling, *settings])

    @property
    def limit(self) -> int:
        """Most parameters that may be deployed: the budget, or without one what the method plans."""
        return self.make().plan().parameters if self.budget is None else self.budget

    def identity(self, seed: int = 0, **changes: Any) -> CellIdentity:
        """The identity of this case's cell; `changes` replace fields of it."""
        names = tuple(m.name for m in target_modules(tiny_backbone(self.pooling).model, "all-linear"))
        fields: dict[str, Any] = {
            "stage": "curve",
            "label": self.method,
            "method": self.method,
            "method_version": METHODS[self.method].version,
            "config": METHODS[self.method].Config(**self.config).model_dump(),
            "training": TrainingSettings(**{**TRAINING, **self.training}).model_dump(),
            "model": "tiny",
            "model_digest": "",
            "task": "tiny",
            "data_digest": "",
            "target_modules": names,
            "budget": self.budget,
            "seed": seed,
            "dtype": "float32",
            "threads": torch.get_num_threads(),
        }
        return CellIdentity(**{**fields, **changes})

    def make(self, **changes: Any) -> Method[Any]:
        """The method of this case; `changes` replace fields of its identity."""
        return _method(self.identity(**changes), self.pooling)

    def trainer(self, seed: int = 0, **connections: Any) -> Trainer:
        """A trainer, not started yet, on a fresh backbone, set up as `run_cell` does it; it takes `connections`."""
        backbone, method = tiny_backbone(self.pooling), self.make(seed=seed)
        parent = self.parent(self.identity(seed))
        if parent is not None:
            method.inherit(load_adapter(parent / "adapter"))
        initialise_head(backbone.model, backbone.head_modules, derive_seed(seed, "head"))
        method.adapt(backbone.model, backbone.head_modules)
        settings = TrainingSettings(**{**TRAINING, **self.training})
        batches = Batches(tiny_task().splits["train"], settings, seed=seed, pad_token_id=0)
        return Trainer(method, batches, settings, total_steps=method.training_steps, **connections)

    def run(self, folder: Path, workspace: Workspace | None = None, seed: int = 0, **changes: Any) -> CellResult:
        """Computes this case's cell in `folder`."""
        workspace, identity = workspace or tiny_workspace(self.pooling), self.identity(seed, **changes)
        parent = self.parent(identity)
        result = run_cell(CellRequest("cell", identity, folder, "tiny", parent), workspace)
        assert result is not None
        return result

    def parent(self, identity: CellIdentity) -> Path | None:
        """Folder of the trained parent that a post-hoc method's cell cuts; None where the method trains by itself."""
        trained = parent_identity(identity, _method(identity, self.pooling))
        return None if trained is None else Path(_trained_parent(trained.model_dump_json(), self.pooling).name)


def _method(identity: CellIdentity, pooling: Pooling) -> Method[Any]:
    backbone = tiny_backbone(pooling)
    modules = target_modules(backbone.model, identity.target_modules)
    return make_method(identity, modules, len(tiny_task().splits["train"]), backbone.parameters)


@functools.cache
def _trained_parent(identity: str, pooling: Pooling) -> tempfile.TemporaryDirectory[str]:
    """The finished cell with this identity as JSON; shared by tests, until the last one is over."""
    folder = tempfile.TemporaryDirectory(prefix="adapad-parent-")
    parent = CellIdentity.model_validate_json(identity)
    run_cell(CellRequest("parent", parent, Path(folder.name), "tiny"), tiny_workspace(pooling))
    return folder


def tiny_backbone(pooling: Pooling = "mean") -> Backbone:
    """A fresh frozen BERT of 2 layers and width 32 for two classes; the same weights at every call."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.2,
        num_labels=2,
    )
    model: Any
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if pooling == "mean":
            model = MeanPooledClassifier(transformers.BertModel(config, add_pooling_layer=False), 2)
            head: tuple[str, ...] = ("classifier",)
        else:
            model = transformers.BertForSequenceClassification(config)
            head = ("bert.pooler.dense", "classifier")
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(pad_token_id=0)  # all that training asks a tokenizer for
    return Backbone("tiny", model, tokenizer, head, pooling, "", backbone_parameters(model, head))


@functools.cache
def tiny_task() -> TaskData:
    """Sentences of 4 to 9 random tokens; the label says whether one of a few tokens occurs. 48, 16 and 24 examples."""
    draw = np.random.default_rng(0)
    splits = {}
    for name, size in (("train", 48), ("validation", 16), ("test", 24)):
        lengths = draw.integers(4, 10, size)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = draw.integers(20, VOCABULARY, offsets[-1]).astype(np.int32)
        labels = np.arange(size) % 2
        for i in np.flatnonzero(labels):
            tokens[draw.integers(offsets[i], offsets[i + 1])] = draw.integers(5, 10)
        splits[name] = EncodedSplit(tokens, offsets, None, labels)
    return TaskData("tiny", ("without", "with"), "accuracy", splits, "")


def tiny_workspace(pooling: Pooling = "mean") -> Workspace:
    """A fresh `tiny_backbone` with `tiny_task`."""
    return Workspace(tiny_backbone(pooling), tiny_task())


@functools.cache
def uninterrupted(case: MethodCase) -> Trainer:
    """The case trained from start to end at one go; shared by tests, to be read only."""
    trainer = case.trainer()
    trainer.start()
    trainer.run()
    return trainer


def assert_same_training(got: Trainer, expected: Trainer) -> None:
    """Both trainers hold bitwise the same tensors, optimizer state, losses and growth."""
    a, b = got.checkpoint(), expected.checkpoint()
    assert a.tensors.keys() == b.tensors.keys()
    different = [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])]
    assert not different, f"{len(different)} tensors differ, {different[0]} first"
    for record in (a.meta["record"], b.meta["record"]):
        record.pop("seconds")
    assert a.meta == b.meta


class MethodConformance:
    """The invariants of every method. A subclass gives a fixture `case` that returns a `MethodCase`."""

    # 1. Attached and untouched, the model's outputs equal the backbone's.

    def test_attached_and_untouched_the_outputs_are_the_backbones(self, case: MethodCase) -> None:
        import pytest

        if case.make().parent() is not None:
            pytest.skip("what is attached is the parent's finished adapter, cut")
        trainer, expected = case.trainer(), _untouched_logits(case)
        trainer.start()
        for lane in [*trainer.method.lanes(0), *(d.lane for d in trainer.method.deployables())]:
            trainer.adapted.use(lane)
            assert np.array_equal(_logits(trainer.adapted.model), expected), f"{lane} changes the outputs"

    # 2. Deployed parameters stay within the budget, and are counted as they are stored.

    def test_the_budget_holds_at_every_step(self, case: MethodCase) -> None:
        trainer, plan = case.trainer(), case.make().plan()
        trainer.start()
        for step in range(1, trainer.total_steps + 1):
            assert len(trainer.method.lanes(step - 1)) <= plan.lanes
            trainer.run(stop_at=step)
            for deployable in trainer.method.deployables():
                deployed = trainer.adapted.deployed_parameters(deployable.lane)
                assert deployed <= case.limit, f"{deployed} parameters after step {step}"
        assert trainer.adapted.deployed_parameters(trainer.method.deployables()[0].lane) <= plan.parameters
        assert trainer.record.peak_parameters <= plan.peak_parameters
        assert plan.ranks is None or trainer.adapted.ranks == dict.fromkeys(trainer.adapted.ranks, 0) | plan.ranks

    def test_the_count_is_what_the_exported_file_holds(self, case: MethodCase, tmp_path: Path) -> None:
        result = case.run(tmp_path)
        assert result.final.parameters <= case.limit
        assert result.budget_remainder == case.limit - result.final.parameters
        sizes = [point.parameters for point in result.points]
        assert sizes == sorted(set(sizes), reverse=True)
        for point in result.points:
            stored = _adapter_tensors(tmp_path, point)
            adapter = {name: t for name, t in stored.items() if ".lora_" in name}
            own = _compact_tensors(tmp_path, point) or adapter
            assert point.adapter is None or point.parameters == sum(t.numel() for t in own.values())
            head = sum(t.numel() for name, t in stored.items() if ".lora_" not in name)
            assert point.adapter is None or point.head_parameters == head

    def test_the_deployed_model_is_the_trained_one(self, case: MethodCase) -> None:
        trainer = uninterrupted(case)
        final = trainer.method.deployables()[0].lane
        layers = trainer.adapted.layers if isinstance(trainer.adapted, AdaptedModel) else {}
        for layer in layers.values():
            for k, block in enumerate(layer.active(), start=1):
                a, b = block.vectors()
                live = k in final.live or (torch.equal(a, block.published_a) and torch.equal(b, block.published_b))
                assert final.acts(k) and live
        trainer.adapted.use(final)
        assert not np.array_equal(_logits(trainer.adapted.model), _untouched_logits(case))

    # 3. PEFT reads the exported adapter.

    def test_peft_gives_the_same_logits_from_the_exported_folder(self, case: MethodCase, tmp_path: Path) -> None:
        result = case.run(tmp_path)
        predictions = load_file(tmp_path / "predictions.safetensors")
        assert all((point.adapter is not None) == METHODS[case.method].budgeted for point in result.points)
        for point in (p for p in result.points if p.adapter is not None):
            trained = predictions[f"test/{point.key}"].numpy()
            for merged in (False, True):
                model = peft.PeftModel.from_pretrained(tiny_backbone(case.pooling).model, tmp_path / str(point.adapter))
                loaded = _logits(model.merge_and_unload() if merged else model)
                np.testing.assert_allclose(loaded, trained, rtol=0, atol=1e-5)

    def test_every_exported_module_has_an_explicit_rank_and_scale(self, case: MethodCase, tmp_path: Path) -> None:
        for point in (p for p in case.run(tmp_path).points if p.adapter is not None):
            config = json.loads((tmp_path / str(point.adapter) / "adapter_config.json").read_text())
            assert all(point.ranks.values()), "a module of rank 0 is absent"
            assert set(config["target_modules"]) == point.ranks.keys()
            anchored = {f"^{re.escape(name)}$": rank for name, rank in point.ranks.items()}
            assert config["rank_pattern"] == config["alpha_pattern"] == anchored
            assert config["r"] == config["lora_alpha"] == max(point.ranks.values())
            stored = _adapter_tensors(tmp_path, point)
            shapes = {name: t.shape[0] for name, t in stored.items() if ".lora_A." in name}
            assert shapes == {f"base_model.model.{name}.lora_A.weight": rank for name, rank in point.ranks.items()}

    # 4. Stop at any step and resume: the same result as uninterrupted.

    def test_stopping_after_every_step_and_resuming_changes_nothing(self, case: MethodCase, tmp_path: Path) -> None:
        whole = uninterrupted(case)
        part, saved = case.trainer(), None
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

    def test_a_cell_that_was_stopped_ends_with_the_result_of_the_undisturbed_one(
        self, case: MethodCase, tmp_path: Path
    ) -> None:
        expected = case.run(tmp_path / "whole")
        for step in (4, 9):
            folder = tmp_path / f"stopped-{step}"
            trainer = case.trainer()
            trainer.start()
            trainer.run(stop_at=step)
            trainer.checkpoint().save(folder / CHECKPOINT)
            assert _lasting(case.run(folder)) == _lasting(expected)
            assert _files(folder) == _files(tmp_path / "whole")

    # 5. Same seed, same result; what runs beside a cell never changes it.

    def test_the_seed_decides_and_an_earlier_cell_on_the_backbone_does_not(
        self, case: MethodCase, tmp_path: Path
    ) -> None:
        expected = case.run(tmp_path / "alone")
        workspace = tiny_workspace(case.pooling)
        before = _weights(workspace.backbone)
        case.run(tmp_path / "before", workspace, seed=1)
        torch.rand(3)  # nothing depends on the global generator
        again = case.run(tmp_path / "after", workspace)
        assert _lasting(again) == _lasting(expected)
        assert _files(tmp_path / "after") == _files(tmp_path / "alone")
        assert _predictions(tmp_path / "before") != _predictions(tmp_path / "alone")
        after = _weights(workspace.backbone)
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

    # 6. Divergence is reported, ends that cell alone, and spoils no other.

    def test_divergence_names_lane_and_step_and_spoils_nothing(self, case: MethodCase, tmp_path: Path) -> None:
        import pytest

        workspace = tiny_workspace(case.pooling)
        training = {**case.identity().training, "learning_rate": 3e38}
        with pytest.raises(DivergedError, match=r"^lane .+, step \d+: "):
            case.run(tmp_path / "diverged", workspace, training=training)
        assert not (tmp_path / "diverged" / RECORD).exists()
        assert _lasting(case.run(tmp_path / "next", workspace)) == _lasting(case.run(tmp_path / "alone"))

    def test_poisoned_weights_are_reported_where_they_are(self, case: MethodCase) -> None:
        import pytest

        if case.make().parent() is not None:
            pytest.skip("nothing is trained here; the parent is a cell of another method")
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
        import pytest

        last = {**case.identity().training, "learning_rate": 3e38, "epochs": 0.1, "warmup_fraction": 0.0}
        with pytest.raises(DivergedError, match=r"^lane .+, step \d+: "):
            case.run(tmp_path, training=last)
        assert not (tmp_path / RECORD).exists()

    # 7. A bad request fails before training with one clear message.

    def test_a_budget_below_the_minimum_is_a_gap(self, case: MethodCase, tmp_path: Path) -> None:
        import pytest

        if not METHODS[case.method].budgeted:
            pytest.skip("the method has no budget")
        with pytest.raises(BudgetTooSmallError) as planned:
            case.make(budget=1).plan()
        assert "budget 1 " in str(planned.value) and "\n" not in str(planned.value)
        with pytest.raises(BudgetTooSmallError):
            case.run(tmp_path, budget=1)
        assert not list(tmp_path.iterdir())

    def test_a_rank_above_a_dimension_is_refused(self, case: MethodCase, tmp_path: Path) -> None:
        import pytest

        if case.impossible is None:
            pytest.skip("the method has no such setting")
        config = METHODS[case.method].Config(**{**case.config, **case.impossible}).model_dump()
        with pytest.raises(BadRequestError, match=r"above the dimension 32 of ") as refused:
            case.make(config=config).plan()
        assert not isinstance(refused.value, BudgetTooSmallError) and "\n" not in str(refused.value)
        with pytest.raises(BadRequestError):
            case.run(tmp_path, config=config)
        assert not list(tmp_path.iterdir())


def _untouched_logits(case: MethodCase) -> np.ndarray:
    """Of the bare backbone with the head as it is initialised."""
    plain = tiny_backbone(case.pooling)
    initialise_head(plain.model, plain.head_modules, derive_seed(0, "head"))
    return _logits(plain.model)


def _logits(model: Any) -> np.ndarray:
    return predict(model, tiny_task().splits["test"], batch_size=64, pad_token_id=0)


def _weights(backbone: Backbone) -> dict[str, Tensor]:
    """Every weight but the head's, which each cell initialises anew from its seed."""
    head = backbone.head_modules
    return {k: v.clone() for k, v in backbone.model.state_dict().items() if k.rpartition(".")[0] not in head}


def _adapter_tensors(folder: Path, point: Point) -> dict[str, Tensor]:
    return {} if point.adapter is None else load_file(folder / point.adapter / "adapter_model.safetensors")


def _compact_tensors(folder: Path, point: Point) -> dict[str, Tensor]:
    """The adapter in its family's own form, where that is not LoRA's."""
    if point.adapter is None:
        return {}
    family = json.loads((folder / point.adapter / "adapad.json").read_text())["family"]
    path = folder / point.adapter / f"{family}.safetensors"
    return load_file(path) if path.exists() else {}


def _lasting(result: CellResult) -> dict[str, Any]:
    """What a result says apart from time and memory."""
    content = result.model_dump()
    for name in ("start_seconds", "train_seconds", "evaluation_seconds", "peak_memory_bytes", "per_worker"):
        content["cost"].pop(name)
    return content


def _predictions(folder: Path) -> bytes:
    return (folder / "predictions.safetensors").read_bytes()


def _files(folder: Path) -> dict[str, bytes]:
    """Everything a cell has written beside its record and the times of its rounds."""
    timed = (folder / RECORD, folder / "rounds")
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p not in timed and p.parent not in timed)
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}
