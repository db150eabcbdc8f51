"""The linear task in a cell: every component reaches its term of the SVD, and the file of errors shows it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from adapad_ray.methods import METHODS
from adapad_ray.models import linear_backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.tasks import BilinearSource, make_bilinear
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import CellRequest, Workspace, make_method, run_cell
from adapad_ray.training.component_errors import COMPONENT_ERRORS, component_probe
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer
from tests.distributed.threads import train_together

SOURCE = BilinearSource(type="bilinear", in_features=8, out_features=6, examples=16, spectrum=(1.0, 0.7, 0.4, 0.15))
COST = 8 + 6
TRAINING = TrainingSettings(
    optimizer="sgd",
    learning_rate=0.5,
    lr_scheduler_type="constant",
    warmup_fraction=0,
    component_warmup_steps=0,
    max_grad_norm=1e6,
    batch_size=16,
    epochs=400,
)


@dataclass(frozen=True)
class LinearCase:
    """Three components of the linear task, scaled by 1."""

    method: str = "adapad"
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> TrainingSettings:
        return TRAINING.model_copy(update=self.training)

    def identity(self) -> CellIdentity:
        config = {"lora_alpha": 3} | ({"initial_rank": 3} if self.method == "adapad" else {}) | self.config
        return CellIdentity(
            stage="curve",
            label=self.method,
            method=self.method,
            method_version=1,
            config=METHODS[self.method].Config(**config).model_dump(),
            training=self.settings.model_dump(),
            model="linear",
            model_digest="",
            task="bilinear",
            data_digest="",
            target_modules=("layers.0",),
            budget=3 * COST,
            seed=0,
            dtype="float64",
            threads=1,
        )

    def run(self, folder):
        workspace = Workspace(linear_backbone(8, 6, dtype="float64"), make_bilinear(SOURCE))
        result = run_cell(CellRequest("cell", self.identity(), folder, "linear"), workspace)
        return result, pd.read_csv(folder / COMPONENT_ERRORS).pivot(index="round", columns="component", values="error")

    def make(self):
        backbone = linear_backbone(8, 6, dtype="float64")
        return make_method(self.identity(), target_modules(backbone.model, "all-linear"), 16, backbone.parameters)

    def trainer(self, **options):
        """As `run_cell` sets it up."""
        backbone, data = linear_backbone(8, 6, dtype="float64"), make_bilinear(SOURCE)
        method = self.make()
        method.adapt(backbone.model, ())
        batches = Batches(data.splits["train"], self.settings, seed=0, pad_token_id=backbone.pad_token_id)
        return Trainer(
            method,
            batches,
            self.settings,
            total_steps=method.training_steps,
            loss=data.loss,
            probe=component_probe(data.components),
            **options,
        )


@pytest.mark.parametrize(
    "config",
    [{}, {"advance_learning": False}, {"staleness": 1}, {"staleness": 4}, {"local_steps": 1}],
    ids=str,
)
def test_every_component_reaches_its_term_of_the_svd(config, tmp_path):
    result, errors = LinearCase(config=config).run(tmp_path)
    assert errors.shape == (400 // config.get("local_steps", 5), 3)
    assert errors.iloc[-1].max() < 1e-6
    expected = 1 - 0.15**2 / sum(s**2 for s in SOURCE.spectrum)
    assert result.final.validation["r2"] == pytest.approx(expected, abs=0.01), "what is left is the fourth term"


def test_before_it_is_published_a_component_is_no_estimate(tmp_path):
    _, errors = LinearCase(training={"epochs": 30}).run(tmp_path)
    for k in (2, 3):
        np.testing.assert_allclose(errors.loc[: k - 1, k], 1, atol=1e-12)
        assert abs(errors.loc[k, k] - 1) > 1e-6


def test_sequential_deflation_keeps_the_error_of_a_component_that_ended_early(tmp_path):
    _, errors = LinearCase("sequential", {"more_first": -0.9}, {"epochs": 150}).run(tmp_path)
    born = errors.notna().idxmax()
    frozen = errors.loc[born[2] :, 1]
    assert born.is_monotonic_increasing and frozen.nunique() == 1 and frozen.iloc[0] > 1e-3
    assert errors.iloc[-1, 2] > 1e-4, "its successors cannot repair it"


def test_the_exported_adapter_is_the_truncated_svd(tmp_path):
    from peft import PeftModel

    result, _ = LinearCase().run(tmp_path)
    data = make_bilinear(SOURCE)
    x, y = data.splits["train"].inputs, data.splits["train"].labels
    weight = (np.linalg.pinv(x) @ y).T
    u, s, vt = np.linalg.svd(weight)
    model = PeftModel.from_pretrained(linear_backbone(8, 6, dtype="float64").model, tmp_path / "adapter")
    merged = model.merge_and_unload().layers[0].weight.detach().numpy()
    np.testing.assert_allclose(merged, (u[:, :3] * s[:3]) @ vt[:3], atol=1e-6)
    assert [point.ranks for point in result.points] == [{"layers.0": k} for k in (3, 2, 1)]


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("config", [{}, {"staleness": 1, "local_steps": 1}], ids=str)
def test_the_number_of_workers_changes_no_error(workers, config):
    """With three workers none of them holds all estimates between two gatherings."""
    case = LinearCase(config=config, training={"epochs": 40})
    alone = case.trainer()
    alone.start()
    alone.run()
    assert len(alone.record.probes) == 40 // config.get("local_steps", 5)
    for trainer in train_together(case, workers):
        assert trainer.record.probes == alone.record.probes


def test_blocks_that_learn_jointly_have_no_components_of_their_own(tmp_path):
    workspace = Workspace(linear_backbone(8, 6, dtype="float64"), make_bilinear(SOURCE))
    identity = LinearCase("lora", training={"epochs": 20}).identity()
    assert run_cell(CellRequest("cell", identity, tmp_path, "linear"), workspace) is not None
    assert not (tmp_path / COMPONENT_ERRORS).exists()


def test_a_stopped_cell_ends_with_the_errors_of_the_undisturbed_one(tmp_path):
    case = LinearCase(training={"epochs": 60})
    case.run(tmp_path / "whole")
    trainer = case.trainer()
    trainer.start()
    trainer.run(stop_at=25)
    trainer.checkpoint().save(tmp_path / "stopped" / "checkpoint")
    case.run(tmp_path / "stopped")
    first, second = ((tmp_path / name / COMPONENT_ERRORS).read_bytes() for name in ("whole", "stopped"))
    assert first == second


def test_gradient_descent_is_exact_in_double_precision():
    trainer = LinearCase(training={"epochs": 1}).trainer()
    trainer.start()
    (layer,) = trainer.adapted.layers.values()
    block = layer.active()[0]
    a, data = block.a.detach().clone(), make_bilinear(SOURCE).splits["train"]
    assert a.dtype == torch.float64
    trainer.run()
    x, y = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    expected = 0.5 * (y.T @ x @ a.T / 16).T  # one step from b = 0 against ½‖Y − b aᵀX‖²/n
    torch.testing.assert_close(block.b.detach(), expected, rtol=1e-12, atol=1e-12)
