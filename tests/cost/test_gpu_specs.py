"""The rate of a plan for GPUs that this machine lacks."""

from types import SimpleNamespace

import pytest
import torch

from adapad_ray.cost.gpu_specs import REACHED, assumed_rate
from adapad_ray.cost.throughput import training_throughput
from adapad_ray.sweep.spec_file import parse_spec


def test_a_rate_is_a_share_of_what_the_named_gpu_can():
    assert assumed_rate("A100", "bfloat16", "full")[0] == pytest.approx(REACHED * 312e12)
    assert assumed_rate("A100", "float32", "full")[0] == pytest.approx(REACHED * 19.5e12)
    assert assumed_rate("A100", "float32", "mixed") == assumed_rate("A100", "float16", "full")
    assert assumed_rate(None, "bfloat16", "full") == assumed_rate("H100", "bfloat16", "full")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is timed")
def test_a_plan_for_gpus_says_that_its_rate_is_assumed():
    spec = parse_spec(
        {
            "model": "minilm-l6",
            "task": "rotten-tomatoes",
            "methods": {"lora": {}},
            "budgets": [41472],
            "dtype": "bfloat16",
            "resources": {"gpus_per_worker": 1, "accelerator_type": "A100"},
        }
    )
    found = training_throughput(spec, SimpleNamespace(precision="full"), 1.0)
    assert not found.measured and found.flops_per_second == pytest.approx(REACHED * 312e12)
    assert (
        "125 TFLOP/s, 40% of the peak of one A100 in 16 bits (assumed, because this machine has no GPU" in found.basis
    )
