"""Which precision a sweep trains in."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.precision import resolve_precision
from adapad_ray.sweep.spec_file import parse_spec


def spec(**fields):
    return parse_spec(
        {"name": "s", "model": "minilm-l6", "task": "sst2", "methods": ["lora"], "budgets": [1], **fields}
    )


@pytest.mark.parametrize("precision", ["full", "tf32", "mixed"])
def test_auto_keeps_what_the_folder_has_recorded(precision):
    assert resolve_precision(spec(), precision) == precision
    assert resolve_precision(spec(precision="full"), precision) == "full"


def test_auto_is_full_without_an_fp32_backbone():
    assert resolve_precision(spec(dtype="bfloat16")) == "full"
    assert resolve_precision(spec(resources={"gpus_per_worker": 1})) == "mixed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "mixed", "dtype": "bfloat16"}, "precision: mixed is for a pretrained model in float32"),
        ({"precision": "tf32"}, "on GPUs, but this sweep has float32 and 0 GPUs per worker: use precision: auto"),
        ({"precision": "tf32", "dtype": "float16", "resources": {"gpus_per_worker": 1}}, "has float16 and 1 GPUs"),
    ],
    ids=["mixed in bf16", "tf32 on a CPU", "tf32 in fp16"],
)
def test_a_precision_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(BadRequestError, match=message):
        resolve_precision(spec(**fields))
