"""The packaged decoder on real reviews. It takes a download and minutes on a slow core: `make soak`."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from sweep_helpers import adapad

from adapad_ray.models import load_backbone
from adapad_ray.report.records import load_results
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.tasks import TYPES, load_task
from adapad_ray.training.cell.evaluation import ModelPasses

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("clusters")]

CHOICE = {"type": "choice", "words": {"fresh": " good", "rotten": " bad"}, "prompt": "{text}\nThis film is"}
GENERATION = {"type": "generation", "answer": "label", "prompt": "{text}\nFresh or rotten?", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """Real reviews with their labels as words."""
    raw = load_task("rotten-tomatoes")
    folder = tmp_path_factory.mktemp("reviews")
    for split, frame in raw.splits.items():
        rows = [{"text": t, "label": raw.class_names[i]} for t, i in zip(frame["text"][:40], frame["label"])]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("task", [CHOICE, GENERATION], ids=["choice", "generation"])
def test_a_sweep_of_the_packaged_decoder_runs_end_to_end(task, reviews, tmp_path):
    content = {
        "name": "decoder",
        "model": "smollm2-135m",
        "task": task | {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
        "data_dir": str(reviews),
        "methods": {"lora": {}, "adapad": {}},
        "target_modules": ["q_proj", "v_proj"],
        "budgets": ["60 ranks"],
        "seeds": [0],
        "reference": False,
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "max_length": 64,
            "max_train_examples": 12,
            "max_validation_examples": 6,
            "max_test_examples": 8,
        },
        "storage": str(tmp_path / "runs"),
        "tracking": f"sqlite:///{tmp_path}/mlflow.db",
    }
    file = tmp_path / "decoder.yaml"
    file.write_text(json.dumps(content))
    code, output = adapad("sweep", file)
    assert code == 0, output
    folder = tmp_path / "runs" / "decoder"
    results = load_results(folder)
    assert {r.identity.label for r in results} == {"lora", "adapad"}
    spec = load_spec(file)
    data = load_inputs(spec).inputs.data
    for result in results:
        assert np.isfinite(result.train_loss).all() and len(result.train_loss) == 3
        assert result.final.head_parameters == 0
        cell = folder / "cells" / result.id
        backbone = load_backbone("smollm2-135m", 0, auto_class="AutoModelForCausalLM")
        model = peft.PeftModel.from_pretrained(backbone.model, cell / str(result.final.adapter)).eval()
        passes = ModelPasses(model, 64, backbone.pad_token_id, tokenizer=backbone.tokenizer)
        with torch.inference_mode():
            found = TYPES[data.type].evaluate(data, passes, ["test"])["test"]
        stored = load_file(cell / "predictions.safetensors")
        np.testing.assert_allclose(found.predictions, stored["test/final"], atol=1e-4)
        if task is GENERATION:
            assert list(found.answers) == json.loads((cell / "answers.json").read_text())["test/final"]
