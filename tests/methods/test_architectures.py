"""Every architecture of the papers trains a cell of the methods, and PEFT reads what it exports."""

import functools

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.methods import METHODS
from adapad_ray.models import IMAGES, SEQUENCES, load_backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.tasks import TaskData
from adapad_ray.tasks.types.image import PixelSplit
from adapad_ray.testing import tiny_task
from adapad_ray.training.cell import CellRequest, Workspace, make_method, parent_identity, run_cell
from adapad_ray.training.cell.evaluation import predict
from adapad_ray.training.settings import TrainingSettings
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
CASES += [(name, method) for name in ("deberta-v2", "qwen3") for method in REST]
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


def compute(method, workspace, folder, name):
    """A finished cell of four steps, and of its parent before it where it has one."""
    modules = target_modules(workspace.backbone.model, "all-linear")
    cls = METHODS[method]
    identity = CellIdentity(
        stage="curve",
        label=method,
        method=method,
        method_version=cls.version,
        config=cls.Config(**(CORE | REST)[method]).model_dump(),
        training=TRAINING.model_dump(),
        model=name,
        model_digest="",
        task="tiny",
        data_digest="",
        target_modules=tuple(module.name for module in modules),
        budget=5 * sum(module.component_cost for module in modules) if cls.budgeted else None,
        seed=0,
        dtype="float32",
        threads=torch.get_num_threads(),
    )
    examples = len(workspace.data.splits["train"])
    planned = parent_identity(identity, make_method(identity, modules, examples, workspace.backbone.parameters))
    parent = None
    if planned is not None:
        parent = folder / "parent"
        run_cell(CellRequest("parent", planned, parent, name), workspace)
    return run_cell(CellRequest("cell", identity, folder / "cell", name, parent), workspace)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_cell_is_trained_and_peft_reads_its_adapter(name, method, workspace, tmp_path):
    folder, work = workspace(name)
    result = compute(method, work, tmp_path, name)
    assert result.identity.budget is None or 0 < result.final.parameters <= result.identity.budget
    stored = load_file(tmp_path / "cell" / "predictions.safetensors")
    if result.final.adapter is None:
        return
    adapter = load_file(tmp_path / "cell" / result.final.adapter / "adapter_model.safetensors")
    assert any(tensor.any() for key, tensor in adapter.items() if ".lora_B." in key)
    assert len(result.final.ranks) > len(ARCHITECTURES[name].layer.attention)
    model = peft.PeftModel.from_pretrained(backbone(name, folder).model, tmp_path / "cell" / result.final.adapter)
    logits = predict(model, work.data.splits["test"], batch_size=64, pad_token_id=work.backbone.pad_token_id)
    np.testing.assert_allclose(logits, stored["test/final"].numpy(), rtol=0, atol=2e-5)
