"""FLOPs that are counted on the meta device equal those of a real forward pass."""

import pytest
import transformers

from adapad_ray.cost.throughput import expected_flops_per_token
from adapad_ray.models import load_skeleton
from adapad_ray.testing import tiny_task
from adapad_ray.training.cell import forward_flops_per_token

TINY = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    "config",
    [
        transformers.BertConfig(**TINY, num_attention_heads=2),
        transformers.DebertaV2Config(**TINY, num_attention_heads=2, relative_attention=True, pos_att_type="p2c|c2p"),
        transformers.LlamaConfig(**TINY, num_attention_heads=4, num_key_value_heads=2),
        transformers.MixtralConfig(**TINY, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4),
        transformers.Qwen3Config(**TINY, num_attention_heads=4, num_key_value_heads=2, head_dim=16),
    ],
    ids=lambda config: config.model_type,
)
def test_the_flops_of_a_plan_are_those_of_a_real_pass(config, tmp_path):
    """The plan counts on the meta device, where tensors have no values; DeBERTa and the decoders read values.

    Mixtral multiplies each token with the matrices of two experts of four.

    In the real pass attention is computed step by step: torch does not count its fused kernel on CPU.
    """
    config.save_pretrained(tmp_path)
    sketch, real = (load_skeleton(str(tmp_path), 2, device=device) for device in ("meta", "cpu"))
    real.set_attn_implementation("eager")
    assert expected_flops_per_token(sketch, tiny_task()) == forward_flops_per_token(real, tiny_task()) > 0
