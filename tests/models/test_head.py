"""The head is initialised from its own seed."""

import torch

from adapad_ray.models import initialise_head, load_backbone
from adapad_ray.models.task_models import MeanPooledClassifier


def test_the_head_is_a_function_of_its_seed(minilm):
    model, head = MeanPooledClassifier(minilm.model.bert, 2), ("classifier",)
    state = torch.random.get_rng_state()
    weights = []
    for seed in (1, 2, 1):
        initialise_head(model, head, seed)
        weights.append(model.classifier.weight.detach().clone())
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert 0.018 < weights[0].std() < 0.022, "BERT's initializer_range is 0.02"
    assert model.classifier.bias.abs().max() == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(load_backbone("minilm-l6", 2, seed=1).model.classifier.weight, weights[0])
