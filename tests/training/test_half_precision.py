"""A backbone in bf16: what learns stays in fp32."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace


@pytest.mark.parametrize(
    "case",
    [
        MethodCase("lora"),
        MethodCase("adapad", config={"initial_rank": 0}),
        MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2}, pooling="own"),
        MethodCase("adalora"),
        MethodCase("dora", 3 * COST_PER_RANK),
    ],
    ids=str,
)
def test_adapters_and_heads_of_a_bf16_backbone_learn_in_fp32(case, tmp_path):
    workspace = tiny_workspace(case.pooling)
    workspace.backbone.model.to(torch.bfloat16)
    training = {**case.identity().training, "epochs": 20}
    result = case.run(tmp_path, dataclasses.replace(workspace), training=training)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    reference = case.run(tmp_path / "fp32", training=training)
    assert result.final.validation["accuracy"] == pytest.approx(reference.final.validation["accuracy"], abs=0.26)
