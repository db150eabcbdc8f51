"""The frozen backbone is in a node's memory once, however many groups compute with it."""

import sys
from dataclasses import replace

import memory_jobs
import pytest
import ray
import torch
import transformers
from pool_helpers import run_jobs

from adapad_ray.distributed import WorkerPool, WorkerRequest
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.models import Backbone, backbone_parameters
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task
from benchmarks.memory import set_up, store_pss

pytestmark = pytest.mark.xdist_group("clusters")


def large_backbone() -> Backbone:
    """The tiny backbone's structure at sixteen times its width, more layers and a longer vocabulary: 92 MB."""
    config = transformers.BertConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=2,
        max_position_embeddings=16,
        num_labels=2,
    )
    model = MeanPooledClassifier(transformers.BertModel(config, add_pooling_layer=False), 2)
    model.requires_grad_(False).eval()
    return replace(tiny_backbone(), model=model, parameters=backbone_parameters(model, ("classifier",)))


def test_two_groups_hold_one_copy_of_the_backbone(cluster, tmp_path):
    before, backbone = sum(store_pss().values()), large_backbone()
    copy = 4 * backbone.parameters
    shared = {
        "backbone": ray.put(share_backbone(backbone)),
        "data": ray.put(tiny_task()),
        "modules": ray.put([name for name in sys.modules if name.startswith("transformers.models.bert.modeling")]),
        "folder": ray.put(str(tmp_path)),
    }
    case = MethodCase("adapad", 40 * COST_PER_RANK, {"local_steps": 2})
    content = {"identity": case.identity().model_dump(mode="json"), "base_model": "large"}
    content |= {"checkpoint_seconds": 60.0, "checkpoint_rounds": None}
    shape = {"groups": 2, "request": WorkerRequest(0.25), "idle_seconds": 600}
    with WorkerPool(set_up, memory_jobs.run, **shape, shared=shared, name="memory") as pool:
        while len(list(tmp_path.iterdir())) < 2:
            assert pool.poll(0.1) == [], "a group was retired"
        growth = [int(path.read_text()) for path in tmp_path.iterdir()]
        held = sum(store_pss().values()) - before
        outcome = run_jobs(pool, {"cell": {**content, "folder": str(tmp_path / "cell")}})["cell"]
    assert len(growth) == 2
    assert 0.99 * copy < held + sum(growth) < 1.25 * copy
    assert outcome.status == "done", outcome.error
    assert outcome.value["parameters"] > 30 and outcome.value["private"] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_opened_equals_what_was_shared(dtype):
    """Ties, scalars and every dtype included."""
    backbone = tiny_backbone()
    model = backbone.model.to(dtype)
    model.scalar = torch.nn.Parameter(torch.tensor(0.5, dtype=dtype), requires_grad=False)
    model.tied = model.get_submodule("bert.embeddings.word_embeddings")
    opened = share_backbone(backbone).open("cpu").model
    got, expected = opened.state_dict(), model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) and got[name].dtype == dtype for name in expected)
    assert opened.tied is opened.get_submodule("bert.embeddings.word_embeddings")
    head = opened.get_submodule("classifier").weight
    assert head.data_ptr() != model.get_submodule("classifier").weight.data_ptr(), "each worker trains its own head"
    assert not any(p.requires_grad for p in opened.parameters())


def test_a_weight_begins_where_it_does_in_its_file(tmp_path):
    """Sums of a product are ordered by it. The object store begins every array at a multiple of 64 bytes."""
    tiny_backbone().model.bert.save_pretrained(tmp_path)
    mapped = tiny_backbone()
    mapped.model.bert = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    weights = share_backbone(mapped).weights
    assert {weight.lead for weight in weights.values()} - {0}
    for name, weight in weights.items():
        p = mapped.model.get_parameter(name)
        assert (p.data_ptr() - weight.lead) % 64 == 0
        assert weight.data[weight.lead :].tobytes() == p.detach().numpy().tobytes()
