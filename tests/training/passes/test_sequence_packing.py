"""Texts that share rows: the same loss, gradients and training as in rows of their own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import CellContext
from adapad_ray.models import Backbone, backbone_parameters
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.tasks import TaskData
from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.testing import tiny_task
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.passes.row_layout import lay_out, rows_of, width_of
from adapad_ray.training.passes.sequence_packing import check_packing
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 24, "pad_token_id": 0, "use_cache": False, "initializer_range": 0.3}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SMALL, num_key_value_heads=1),
    "qwen3": transformers.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=8),
    "gpt2": transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=24, use_cache=False, initializer_range=0.3
    ),
    "opt": transformers.OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=24, use_cache=False, init_std=0.3,
    ),
    "gemma": transformers.Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, head_dim=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
}  # fmt: skip
MIXING = {
    "mamba": transformers.MambaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, use_cache=False
    ),
    "lfm2": transformers.Lfm2Config(**SMALL, num_key_value_heads=1, layer_types=["conv", "full_attention"]),
}
"""A recurrent model, and one with convolutions over tokens."""


def model_of(config, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(dtype).requires_grad_(False).eval()


def prompts():
    """24 prompts of 2 to 15 tokens with answers of 1 to 4."""
    draw = np.random.default_rng(0)
    answers = draw.integers(1, 5, 24).tolist()
    rows = [draw.integers(1, 50, draw.integers(2, 16) + answer).tolist() for answer in answers]
    return prompted(rows, answers, np.ones(24, dtype=np.int64))


def trained(name, method="lora", config=None, slots=None, names="all-linear", **training):
    """A trainer after its last step, in fp64."""
    model = model_of(CONFIGS[name])
    modules = target_modules(model, names)
    cls = METHODS[method]
    settings = TrainingSettings(epochs=2, batch_size=6, learning_rate=1e-2, max_length=24, **training)
    made = cls(
        cls.Config(**(config or {})),
        CellContext(modules, 2 * sum(m.component_cost for m in modules), settings.total_steps(24), seed=0),
    )
    made.adapt(model, ())
    batches = Batches(prompts(), settings, seed=0, pad_token_id=0)
    options = {"total_steps": made.training_steps, "loss": answer_cross_entropy}
    if slots is None:
        trainer = Trainer(made, batches, settings, **options)
    else:
        trainer = PackedTrainer(made, batches, settings, **options, passes=SharedPasses(slots))
    trainer.start()
    trainer.run()
    return trainer


def assert_same(found, expected):
    np.testing.assert_allclose(found.record.losses, expected.record.losses, rtol=0, atol=1e-9)
    assert [(e.step, e.module, e.rank) for e in found.record.growth] == [
        (e.step, e.module, e.rank) for e in expected.record.growth
    ]
    state = expected.adapted.state()
    for name, value in found.adapted.state().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-7, msg=name)
    assert found.record.work.tokens == expected.record.work.tokens
    assert found.record.work.padded_tokens < expected.record.work.padded_tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_the_training_is_that_of_texts_in_rows_of_their_own(name):
    """Eight steps: losses to 1e-9, adapters to 1e-7."""
    assert_same(trained(name, group_by_length=False, pack_sequences=True), trained(name, group_by_length=False))


GROWING = {"initial_rank": 1, "local_steps": 2, "growth_start": 0.2, "growth_interval": 2}


@pytest.mark.parametrize("slots", [None, 3])
@pytest.mark.parametrize("micro", [None, 4])
def test_so_it_is_with_lanes_growth_micro_batches_and_packs(slots, micro):
    plain = trained("llama", "adapad", GROWING, group_by_length=False)
    packed = trained(
        "llama", "adapad", GROWING, slots, group_by_length=False, pack_sequences=True, micro_batch_size=micro
    )
    assert plain.record.growth
    assert_same(packed, plain)


def test_so_it_is_with_an_adapted_output_embedding_whose_lanes_train_one_after_another():
    settings = {"names": ["q_proj", "lm_head"], "group_by_length": False}
    plain = trained("llama", "adapad", GROWING, **settings)
    assert_same(trained("llama", "adapad", GROWING, slots=3, pack_sequences=True, **settings), plain)


def test_rows_are_filled_longest_first():
    assert rows_of(np.array([3, 9, 4, 5, 1]), 9) == [[1], [3, 2], [0, 4]]
    assert width_of(np.array([3, 9, 4]), 8, one_row=False) == 16
    assert width_of(np.array([3, 9, 4]), 8, one_row=True) == 16


def test_a_row_holds_texts_positions_and_where_their_logits_are():
    split = prompted([[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]], [1, 2, 1], np.ones(3))
    rows = lay_out(split.batch(np.arange(3), 0), 6, pad_token_id=0)
    assert rows.inputs["input_ids"].tolist() == [[8, 9, 10, 11, 12, 0], [5, 6, 7, 13, 14, 0]]
    assert rows.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 0]]
    assert rows.labels.tolist() == [[-100, 7], [11, 12], [-100, 14]]
    learnt = rows.labels != -100
    assert rows.logits_at[learnt].tolist() == [[1, 1], [0, 2], [0, 3], [1, 3]]


@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "eager"), (torch.bfloat16, "sdpa")])
@pytest.mark.parametrize("name", CONFIGS)
def test_models_that_tell_texts_apart_by_positions_pass_the_check(name, dtype, attention):
    model = model_of(CONFIGS[name], dtype)
    model.set_attn_implementation(attention)
    check_packing(model, prompts(), 0, "cpu", in_16_bits=dtype == torch.bfloat16)


@pytest.mark.parametrize("name", MIXING)
def test_models_that_mix_the_texts_of_a_row_are_refused(name):
    with pytest.raises(BadRequestError, match=r"pack_sequences is true, but \w+ForCausalLM does not keep the texts"):
        check_packing(model_of(MIXING[name], torch.float32), prompts(), 0, "cpu", in_16_bits=False)


def test_examples_of_other_tasks_cannot_share_rows():
    with pytest.raises(BadRequestError, match="the examples of this task cannot share rows"):
        Batches(tiny_task().splits["train"], TrainingSettings(pack_sequences=True), seed=0, pad_token_id=0)


def cell(config, folder, **training):
    """The record of a cell of head-less choices between two answers of a prompt each."""
    model = model_of(config, torch.float32)
    splits = {"train": prompts()}
    for name in ("validation", "test"):
        splits[name] = prompted([[5, 6, 7], [5, 6, 8], [9, 8, 7], [9, 8, 8]], [1] * 4, np.array([0, 1]))
    settings = {"score": "sum", "choices": 2}
    data = TaskData("tiny", ("a", "b"), "accuracy", splits, "", answer_cross_entropy, None, "choice", settings)
    backbone = Backbone("tiny", model, SimpleNamespace(pad_token_id=0), (), "own", "", backbone_parameters(model))
    modules = target_modules(model, "all-linear")
    identity = CellIdentity(
        stage="curve",
        label="lora",
        method="lora",
        method_version=METHODS["lora"].version,
        config=METHODS["lora"].Config().model_dump(),
        training=TrainingSettings(epochs=1, batch_size=6, max_length=24, **training).model_dump(),
        model="tiny",
        model_digest="",
        task="tiny",
        data_digest="",
        target_modules=tuple(m.name for m in modules),
        budget=sum(m.component_cost for m in modules),
        seed=0,
        dtype="float32",
        threads=1,
    )
    return run_cell(CellRequest("cell", identity, folder, "tiny"), Workspace(backbone, data))


def test_a_cell_with_shared_rows_has_the_losses_of_one_without(tmp_path):
    plain, packed = (
        cell(CONFIGS["llama"], tmp_path / str(on), group_by_length=False, pack_sequences=on) for on in (False, True)
    )
    np.testing.assert_allclose(packed.train_loss, plain.train_loss, rtol=0, atol=1e-5)
    assert packed.cost.tokens == plain.cost.tokens and packed.cost.train_flops < plain.cost.train_flops


def test_a_cell_of_a_model_that_mixes_texts_ends_before_it_begins(tmp_path):
    with pytest.raises(BadRequestError, match="MambaForCausalLM does not keep the texts of a row apart"):
        cell(MIXING["mamba"], tmp_path / "cell", pack_sequences=True)
    assert not (tmp_path / "cell").exists()
