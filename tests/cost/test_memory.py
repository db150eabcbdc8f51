"""What a worker needs: the activations against those of a real pass, and what does not fit."""

from dataclasses import replace

import pytest
import torch
import transformers

from adapad_ray.cost.estimate import estimate_sweep
from adapad_ray.cost.gpu_specs import GPU_SPECS
from adapad_ray.cost.memory import WorkerMemory, _activations, _attach_lora, _weights
from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_backbone
from adapad_ray.models.target_modules import target_modules
from adapad_ray.sweep.inputs import sketch_inputs
from adapad_ray.sweep.spec_file import parse_spec
from tests.architectures import DECODER
from tests.models.tiny_configs import words

QWEN = {
    "name": "m",
    "model": "Qwen/Qwen3-0.6B",
    "task": "mnli",
    "methods": {"lora": {}},
    "budgets": ["0.2%"],
    "training": {"max_length": 256, "batch_size": 64},
    "resources": {"gpus_per_worker": 1, "accelerator_type": "T4"},
}


@pytest.fixture
def tiny(tiny_model, reviews):
    def make(**training):
        content = {"name": "s", "model": str(tiny_model), "pooling": "mean", "methods": {"lora": {}}, "budgets": [1792]}
        task = {"train": str(reviews), "text": "review", "label": "stars"}
        return parse_spec({**content, "task": task, "training": {"max_length": 32, **training}})

    return make


def test_the_activations_are_those_that_a_real_pass_keeps(tiny, tiny_model):
    """Of the same model with LoRA on the same modules; the real pass uses a fused kernel for attention."""
    spec = tiny()
    inputs = sketch_inputs(spec)
    expected = _activations(spec, inputs, 8)

    model = load_backbone(str(tiny_model), 2, pooling="mean").model
    _attach_lora(spec, model)
    frozen = {t.untyped_storage().data_ptr() for t in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = inputs.data.splits["train"].batch(inputs.data.splits["train"].lengths.argsort(kind="stable")[-8:], 0)
    batch.pop("labels")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert real <= expected < 1.5 * real


def test_recomputed_layers_keep_less(tiny):
    inputs = sketch_inputs(tiny())
    assert _activations(tiny(gradient_checkpointing=True), inputs, 8) < 0.7 * _activations(tiny(), inputs, 8)


def test_what_does_not_fit_the_named_accelerator_is_refused_with_what_needs_less():
    with pytest.raises(BadRequestError, match=r"about \d+ GB .*weights 3\.\d.* 1 T4 has 16: less takes .*nf4"):
        estimate_sweep(parse_spec(QWEN))
    less = {"training": {"max_length": 256, "batch_size": 64, "micro_batch_size": 2}, "quantization": "nf4"}
    memory = estimate_sweep(parse_spec({**QWEN, **less, "dtype": "bfloat16"})).memory
    assert memory.weights < 1e9 and memory.examples == 2 and memory.gpus(16) == 1


def test_gpus_are_counted_with_room_to_spare():
    memory = WorkerMemory(weights=70 * 10**9, trained=10**9, activations=10**9, examples=1)
    assert (memory.gpus(80), memory.gpus(79), memory.gpus(40)) == (1, 2, 2)
    assert GPU_SPECS["H100"].gigabytes == 80


@pytest.mark.parametrize(
    ("stored", "bytes_per_weight"),
    [({"load_in_4bit": True}, 0.5625), ({"load_in_8bit": True}, 1), ({"bits": 4}, 0.5625), ({"bits": 8}, 1), (None, 4)],
    ids=str,
)
def test_weights_that_are_stored_quantised_are_counted_so(stored, bytes_per_weight, tiny):
    inputs = sketch_inputs(tiny())
    every = sum(p.numel() for p in inputs.model.parameters())
    linear = sum(m.in_features * m.out_features for m in target_modules(inputs.model, "all-linear"))
    inputs = replace(inputs, precision="full")
    inputs.model.config.quantization_config = stored
    assert _weights(tiny(), inputs) == 4 * (every - linear) + bytes_per_weight * linear


def test_of_logits_in_chunks_one_chunk_is_counted_and_all_where_the_output_embedding_is_adapted(tmp_path, monkeypatch):
    config = transformers.LlamaConfig(**DECODER | {"vocab_size": 20_000})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    data = tmp_path / "rows.csv"
    data.write_text("q,a\n" + "".join(f"w{i % 90 + 4} w5 w{i},w7 w8 w9\n" for i in range(4, 90)))
    task = {"type": "generation", "train": str(data), "prompt": "{q}", "answer": "a", "max_new_tokens": 4}
    content = {"name": "s", "model": str(tmp_path), "task": task, "methods": {"lora": {}}, "budgets": ["1%"]}
    monkeypatch.setattr("adapad_ray.training.passes.token_losses.MOST_LOGITS_ON_CPU", 100)
    all_logits = 8 * 4 * 20_000 * 4  # of eight answers of four tokens, in fp32
    found = []
    for modules in (["q_proj"], ["q_proj", "lm_head"]):
        spec = parse_spec({**content, "training": {"max_length": 16}, "target_modules": modules})
        found.append(_activations(spec, sketch_inputs(spec), 8))
    assert found[1] - found[0] > 0.8 * all_logits
