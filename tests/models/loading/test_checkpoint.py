"""Where a node finds the files of a model, and what makes them the same as the driver's."""

import os
import shutil

import pytest
import transformers
from huggingface_hub import constants

from adapad_ray.errors import BadRequestError
from adapad_ray.models import find_recipe
from adapad_ray.models.loading.checkpoint import AbsentCheckpointError
from tests.architectures import ENCODER
from tests.models.tiny_configs import words

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def saved(folder, **settings):
    transformers.BertModel(transformers.BertConfig(**ENCODER)).save_pretrained(folder, **settings)
    words().save_pretrained(folder)
    return folder


def test_a_copy_of_other_times_is_the_same_model_and_other_weights_are_not(tmp_path):
    recipe = find_recipe(str(saved(tmp_path / "model", max_shard_size="20KB")), 2)
    for path in (tmp_path / "model").iterdir():
        os.utime(path, (1, 1))
    assert recipe.load().digest == recipe.frame.digest
    weights = max((tmp_path / "model").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AbsentCheckpointError, match=r"'.*model' are not those that the sweep was planned with"):
        recipe.load()
    weights.unlink()
    with pytest.raises(AbsentCheckpointError, match=r"the files of model '.*model' are not on this node: .*model"):
        recipe.load()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of a Hub that cannot be reached, with one model; it can be moved to another path."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def use(cache):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        return cache

    repository = use(tmp_path / "first") / "models--a--b"
    saved(repository / "snapshots" / COMMIT, max_shard_size="20KB")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return use


def test_a_model_of_the_hub_is_loaded_at_its_commit_wherever_a_node_keeps_it(hub, tmp_path):
    recipe = find_recipe("a/b", 2)
    assert recipe.checkpoint.hub == ("a/b", COMMIT)
    assert recipe.frame.name == "a/b" and recipe.load().model.get_parameter("classifier.weight").shape == (2, 32)
    shutil.move(tmp_path / "first", hub(tmp_path / "second"))
    (tmp_path / "second" / "models--a--b" / "refs" / "main").write_text("f" * 40)
    assert recipe.load().digest == recipe.frame.digest
    assert find_recipe(str(tmp_path / "second" / "models--a--b" / "snapshots" / COMMIT), 2).frame.digest == (
        recipe.frame.digest
    )


def test_a_model_of_the_hub_without_safetensors_is_refused(hub, tmp_path):
    (tmp_path / "first" / "models--a--b" / "snapshots" / COMMIT / "model.safetensors.index.json").unlink()
    with pytest.raises(BadRequestError, match=r"'a/b' has no model\.safetensors: pickled weights are not loaded"):
        find_recipe("a/b", 2)
