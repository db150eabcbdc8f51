"""The training settings: the schedule of the learning rate, and values that are rejected."""

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError

from adapad_ray.training.settings import TrainingSettings


def test_the_learning_rate_rises_linearly_and_falls_linearly_to_zero():
    settings = TrainingSettings(warmup_fraction=0.1)
    rates = [settings.schedule(step, 40) for step in range(41)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(rates[4:], np.linspace(1, 0, 37), atol=1e-12)
    assert all(rate > 0 for rate in rates[:40]), "no step is wasted"
    assert [TrainingSettings(warmup_fraction=0).schedule(step, 1) for step in (0,)] == [1.0]


def test_a_constant_schedule_warms_up_and_stays():
    settings = TrainingSettings(lr_scheduler_type="constant", warmup_fraction=0.2)
    assert [settings.schedule(step, 10) for step in range(10)] == [0.5, *[1.0] * 9]


def test_settings_survive_a_round_trip_through_json():
    chosen = TrainingSettings(gradient_checkpointing=True, pad_to_multiple_of=8)
    assert TrainingSettings(**chosen.model_dump(mode="json")) == chosen
    assert TrainingSettings().model_dump(mode="json").keys() == TrainingSettings.model_fields.keys()


def test_the_longest_text_has_to_fit():
    with pytest.raises(ValidationError, match="pad_to_multiple_of 64 must divide max_length 100"):
        TrainingSettings(max_length=100, pad_to_multiple_of=64)


def test_a_cosine_schedule_ends_at_zero_as_transformers_does():
    settings = TrainingSettings(lr_scheduler_type="cosine", warmup_fraction=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = transformers.get_cosine_schedule_with_warmup(optimizer, 4, 20)
    for step in range(4, 20):
        expected = theirs.lr_lambdas[0](step)
        assert settings.schedule(step, 20) == pytest.approx(expected, abs=1e-12)
