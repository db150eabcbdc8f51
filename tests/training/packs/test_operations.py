"""What a GPU would launch: a pack of eight takes at most 1.6 times the operations of one slot."""

import collections
from functools import partial

import numpy as np
import pytest
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import CellContext
from adapad_ray.models import Backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.tasks import EncodedSplit
from adapad_ray.testing.packed_cells import PackedCells
from adapad_ray.training.batches import Batches
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

NO_KERNEL = {
    "_unsafe_view", "_reshape_alias", "alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip
MOST = 1.6


class Operations(TorchDispatchMode):
    """Counts operations that are no mere views."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += func.overloadpacket.__name__ not in NO_KERNEL
        return func(*args, **(kwargs or {}))


def model(shape):
    """Two layers of the shape's kind with tiny widths, which change no count, and the paths of the head."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"vocab_size": 100, "num_labels": 2, "pad_token_id": 0}
    if shape == "MiniLM":
        encoder = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False)
        made, head = MeanPooledClassifier(encoder, 2), ("classifier",)
    elif shape == "DeBERTaV3":
        config = transformers.DebertaV2Config(
            relative_attention=True, position_buckets=8, pos_att_type="p2c|c2p", norm_rel_ebd="layer_norm",
            share_att_key=True, position_biased_input=False, type_vocab_size=0, **sizes,
        )  # fmt: skip
        made, head = transformers.DebertaV2ForSequenceClassification(config), ("pooler.dense", "classifier")
    else:
        config = transformers.Qwen3Config(num_key_value_heads=1, head_dim=16, use_cache=False, **sizes)
        made, head = transformers.Qwen3ForSequenceClassification(config), ("score",)
    return Backbone(shape, made.requires_grad_(False).eval(), None, head, "own", "", 0)


def trainer(method, config, backbone, kind=Trainer, **options):
    made, head = backbone.model, backbone.head_modules
    modules, cls = target_modules(made, "all-linear"), METHODS[method]
    context = CellContext(modules, 8 * sum(m.component_cost for m in modules), total_steps=100, seed=0)
    built = cls(cls.Config(**config), context)
    built.adapt(made, head)
    settings = TrainingSettings(batch_size=4, epochs=100)
    lengths = np.array([8, 8, 6, 6])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = EncodedSplit(np.arange(1, 1 + offsets[-1]).astype(np.int32), offsets, None, np.arange(4) % 2)
    batches = Batches(data, settings, seed=0, pad_token_id=0)
    return kind(built, batches, settings, total_steps=100, **options)


def operations(step):
    """Of the second step; the first one allocates."""
    step(0)
    with Operations() as counted:
        step(1)
    return counted.counts.total()


@pytest.mark.parametrize("shape", ["MiniLM", "DeBERTaV3", "Qwen3"])
def test_a_pack_of_eight_takes_few_more_operations_than_one(shape):
    backbone = model(shape)
    lora = partial(trainer, "lora", {})
    lone = lora(backbone=backbone.twin())
    lone.start()
    one = operations(lambda step: lone.train_step())
    cells = PackedCells([partial(lora, kind=PackedTrainer)] * 8, backbone)
    assert operations(lambda step: cells.passes.train_step(cells.trainers)) <= MOST * one

    lanes = {"initial_rank": 8, "r_max": 8, "local_steps": 100}
    adapad = trainer("adapad", lanes, backbone, kind=PackedTrainer, passes=SharedPasses(8))
    adapad.start()
    assert operations(lambda step: adapad.train_step()) <= MOST * one
