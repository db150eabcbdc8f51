"""An adapter on the output layer of a causal model: its cost, and what PEFT computes with it."""

import pandas as pd
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import adapad_ray as ar
from adapad_ray.tasks import TYPES
from adapad_ray.training.cell.evaluation import ModelPasses
from tests.architectures import DECODER
from tests.models.tiny_configs import words

ROWS = pd.DataFrame({"text": [f"w{4 + i} w{9 + i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
TASK = {"type": "choice", "prompt": "{text}", "words": {0: "w4", 1: "w5 w6"}}
PER_RANK = 2 * (32 + 64) + (32 + 100)
"""Parameters of a component on `q_proj` of both layers and on `lm_head`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)).save_pretrained(folder)
    words(padding_side="right").save_pretrained(folder)
    return str(folder)


def base(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("method", ["lora", "adapad"])
def test_it_counts_in_the_budget_and_peft_gives_the_same_logits(method, folder, tmp_path):
    arguments = {"task": TASK, "target_modules": ["q_proj", "lm_head"], "epochs": 1, "learning_rate": 1e-2}
    trained = ar.train(
        folder, dataset=ROWS, method=method, budget=2 * PER_RANK, folder=tmp_path, precision="full", **arguments
    )
    assert trained.ranks["lm_head"] > 0
    factors = load_file(trained.adapter / "adapter_model.safetensors")
    assert trained.parameters == sum(t.numel() for t in factors.values()) <= 2 * PER_RANK
    if method == "lora":
        assert trained.parameters == 2 * PER_RANK
    recorded = load_file(trained.folder / "predictions.safetensors")["test/final"]
    loaded = peft.PeftModel.from_pretrained(base(folder), trained.adapter)
    for model in (loaded, loaded.merge_and_unload()):
        torch.testing.assert_close(predictions_of(trained, model), recorded, rtol=0, atol=2e-5)
    assert (predictions_of(trained, base(folder)) - recorded).abs().max() > 1e-3


def predictions_of(trained, model):
    passes = ModelPasses(model, 64, 0, tokenizer=trained.backbone.tokenizer)
    with torch.inference_mode():
        found = TYPES["choice"].evaluate(trained.data, passes, ["test"])["test"]
    return torch.from_numpy(found.predictions)


def test_texts_that_share_rows_train_it_as_rows_of_their_own(folder):
    arguments = {"task": TASK, "target_modules": ["lm_head"], "epochs": 1, "learning_rate": 1e-2, "precision": "full"}
    packed, alone = (
        ar.train(folder, dataset=ROWS, method="lora", budget=132, pack_sequences=shared, **arguments)
        for shared in (True, False)
    )
    assert packed.result.train_loss == pytest.approx(alone.result.train_loss, abs=1e-5)
    assert packed.ranks == {"lm_head": 1}
