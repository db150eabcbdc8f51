"""The mean-pooled classifier: its logits, its loss, and module paths that PEFT and transformers share."""

import json

import numpy as np
import peft
import torch
import transformers

from adapad_ray.models import load_backbone, resolve_model


def test_mean_pooling_is_the_mean_over_real_tokens(minilm, inputs, texts):
    logits = minilm.model(**inputs).logits
    bert = transformers.AutoModel.from_pretrained(resolve_model("minilm-l6").path_or_name)
    for text, row in zip(texts, logits, strict=True):
        alone = minilm.tokenizer(text, return_tensors="pt")  # no padding, so a plain mean is the truth
        mean = bert(**alone).last_hidden_state[0].detach().numpy().astype(np.float64).mean(axis=0)
        expected = mean @ minilm.model.classifier.weight.numpy().T.astype(np.float64)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)


def test_labels_give_the_mean_cross_entropy(minilm, inputs):
    output = minilm.model(**inputs, labels=torch.tensor([1, 0]))
    log_probabilities = output.logits.log_softmax(-1)
    torch.testing.assert_close(output.loss, -(log_probabilities[0, 1] + log_probabilities[1, 0]) / 2)


def test_module_paths_are_those_of_transformers_classifier(minilm):
    own = load_backbone("minilm-l6", 2, pooling="own").model
    ours = {name: parameter.shape for name, parameter in minilm.model.named_parameters()}
    theirs = {name: parameter.shape for name, parameter in own.named_parameters() if "pooler" not in name}
    assert ours == theirs


def test_a_peft_adapter_round_trips_through_the_mean_pooled_model(minilm, inputs, tmp_path):
    expected = minilm.model(**inputs).logits
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False, modules_to_save=["classifier"])
    adapted = peft.get_peft_model(load_backbone("minilm-l6", 2).model, config).eval()
    logits = adapted(**inputs).logits
    assert not torch.allclose(logits, expected)
    adapted.save_pretrained(tmp_path)
    for task_type in (None, "SEQ_CLS"):
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"task_type": task_type}))
        fresh = load_backbone("minilm-l6", 2, seed=9).model
        loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
        torch.testing.assert_close(loaded(**inputs).logits, logits, atol=1e-6, rtol=0)
