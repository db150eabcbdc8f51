"""Every architecture of the papers trains a cell of the methods, and PEFT reads what it exports."""

import functools
import warnings

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from whole_cells import compute, identity_of

from adapad_ray.methods import METHODS
from adapad_ray.models import IMAGES, SEQUENCES, initialise_head, load_backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.tasks import TaskData
from adapad_ray.tasks.types.image import PixelSplit
from adapad_ray.testing import tiny_task
from adapad_ray.testing.conformance import assert_same_training
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import Workspace, make_method
from adapad_ray.training.cell.evaluation import predict
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer
from tests.architectures import ARCHITECTURES, save_architecture

CORE = {
    "lora": {},
    "adapad": {"local_steps": 1},
    "cp": {},
    "ard": {"rank_interval": 2},
    "para": {"parent_rank": 6},
}
REST = {name: {} for name in METHODS if name not in CORE}
CASES = [(name, method) for name in ARCHITECTURES for method in CORE]
CASES += [(name, method) for name in ("deberta-v2", "qwen3", "gpt2", "falcon") for method in REST]
TRAINING = TrainingSettings(epochs=0.7, batch_size=8, max_length=10, learning_rate=1e-2)
"""Four steps on `tiny_task`."""


@pytest.fixture(scope="module")
def workspace(tiny_model, tmp_path_factory):
    """Folder and workspace of an architecture, made once."""

    @functools.cache
    def make(name):
        folder = save_architecture(name, tiny_model, tmp_path_factory.mktemp("architectures") / name)
        return folder, Workspace(backbone(name, folder), data(name))

    return make


def backbone(name, folder):
    return load_backbone(str(folder), 2, auto_class=IMAGES if ARCHITECTURES[name].images else SEQUENCES)


@functools.cache
def tiny_images():
    """Noise of 8 x 8 pixels in three colours, brighter in one half of the examples; 48, 16 and 24 of them."""
    draw, splits = np.random.default_rng(0), {}
    for split, size in (("train", 48), ("validation", 16), ("test", 24)):
        labels = np.arange(size) % 2
        pixels = draw.integers(0, 160, (size, 3, 8, 8)) + 80 * labels[:, None, None, None]
        splits[split] = PixelSplit(pixels.astype(np.uint8), labels, (0.5,) * 3, (0.5,) * 3)
    return TaskData("tiny", ("dark", "bright"), "accuracy", splits, "", type="image")


def data(name):
    return tiny_images() if ARCHITECTURES[name].images else tiny_task()


def cell_of(method, workspace, name):
    """The identity of a cell of four steps on all linear layers."""
    return identity_of(method, workspace, (CORE | REST)[method], TRAINING, ranks=5, name=name)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_cell_is_trained_and_peft_reads_its_adapter(name, method, workspace, tmp_path):
    folder, work = workspace(name)
    result = compute(cell_of(method, work, name), work, tmp_path)
    assert result.identity.budget is None or 0 < result.final.parameters <= result.identity.budget
    stored = load_file(tmp_path / "cell" / "predictions.safetensors")
    if result.final.adapter is None:
        return
    adapter = load_file(tmp_path / "cell" / result.final.adapter / "adapter_model.safetensors")
    assert any(tensor.any() for key, tensor in adapter.items() if ".lora_B." in key)
    assert len(result.final.ranks) > len(ARCHITECTURES[name].layer.attention)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fan_in_fan_out is set to")
        model = peft.PeftModel.from_pretrained(backbone(name, folder).model, tmp_path / "cell" / result.final.adapter)
    for deployed in (model, model.merge_and_unload()):
        logits = predict(deployed, work.data.splits["test"], batch_size=64, pad_token_id=work.backbone.pad_token_id)
        np.testing.assert_allclose(logits, stored["test/final"].numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "falcon"])
def test_full_training_stopped_at_every_step_ends_as_the_undisturbed_one(name, workspace, tmp_path):
    """The other methods do so in `test_conformance.py`."""
    _, work = workspace(name)

    def trainer():
        return start_trainer("full", work, name)

    whole = trainer()
    whole.start()
    whole.run()
    whole.adapted.detach()
    saved = None
    for step in range(1, whole.total_steps + 1):
        part = trainer()
        part.start() if saved is None else part.resume(saved)
        part.run(stop_at=step)
        part.adapted.detach()
        part.checkpoint().save(tmp_path / "checkpoint")
        saved = Checkpoint.load(tmp_path / "checkpoint")
    assert_same_training(part, whole)


@pytest.mark.parametrize("name", ["gpt2", "falcon"])
def test_attached_adapters_change_nothing_and_detaching_gives_the_backbone_back(name, workspace):
    _, work = workspace(name)
    model, modules = work.backbone.model, dict(work.backbone.model.named_modules())
    batch = {"input_ids": torch.arange(1, 13).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    with torch.no_grad():
        expected = model(**batch).logits
        for method in ("lora", "adapad", "adalora", "dora"):
            trainer = start_trainer(method, work, name)
            trainer.start()
            trainer.adapted.use(trainer.method.lanes(0)[0])
            # DoRA divides by the norms of rows that equal its lengths, which rounds.
            torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=1e-6 if method == "dora" else 0)
            trainer.adapted.detach()
            assert dict(model.named_modules()) == modules


def start_trainer(method, workspace, name):
    """A trainer of a cell of four steps on the workspace's own backbone."""
    identity = cell_of(method, workspace, name)
    data = workspace.data.splits["train"]
    modules = target_modules(workspace.backbone.model, "all-linear")
    made = make_method(identity, modules, len(data), workspace.backbone.parameters)
    backbone = workspace.backbone
    initialise_head(backbone.model, backbone.head_modules, 0)
    made.adapt(backbone.model, backbone.head_modules)
    batches = Batches(data, TRAINING, seed=0, pad_token_id=backbone.pad_token_id)
    return Trainer(made, batches, TRAINING, total_steps=made.training_steps)
