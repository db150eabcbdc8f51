"""Published parameter counts, from configurations alone: `adapad plan` needs neither weights nor a network.

Every model here is a folder that holds `config.json` and nothing else.
"""

import json
import shutil

import pytest
import transformers
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.cost.throughput import expected_flops_per_token
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import BUILT_IN
from adapad_ray.models import load_backbone
from adapad_ray.sweep.inputs import sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec_file import parse_spec

CONFIGS = {
    "deberta-v3-base": lambda: transformers.DebertaV2Config(
        vocab_size=128_100,
        hidden_size=768,
        intermediate_size=3_072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=512,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "opt-1.3b": lambda: transformers.OPTConfig(
        hidden_size=2_048, ffn_dim=8_192, num_hidden_layers=24, num_attention_heads=32, word_embed_proj_dim=2_048
    ),
    "qwen3-0.6b": lambda: transformers.Qwen3Config(
        vocab_size=151_936,
        hidden_size=1_024,
        intermediate_size=3_072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    ),
    "llama-3.1-70b": lambda: transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=8_192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
    ),
}
"""As their authors publish them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(name):
        path = tmp_path_factory.mktemp("models") / name
        CONFIGS[name]().save_pretrained(path)
        assert [file.name for file in path.iterdir()] == ["config.json"]
        return path

    return make


@pytest.fixture
def plan(folder, reviews, tmp_path):
    """What `adapad plan --json` prints for a model at these budgets."""

    def run(name, budgets, target_modules="all-linear", methods=None):
        spec = {
            "model": str(folder(name)),
            "task": {"train": str(reviews), "text": "review", "label": "stars"},
            "target_modules": target_modules,
            "methods": methods or {"lora": {}},
            "budgets": budgets,
            "reference": False,
        }
        file = tmp_path / "spec.yaml"
        file.write_text(json.dumps(spec))  # JSON is YAML
        result = CliRunner().invoke(app, ["plan", str(file), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def parameters(planned, label="lora"):
    return {row["budget"]: row["parameters"] for row in planned["rows"] if row["label"] == label}


def millions(count):
    return f"{count / 1e6:.2f}M"


def test_deberta_v3_base_has_165_888_parameters_per_rank(folder, reviews):
    """Six linears a layer: the sizes that AdaLoRA's tables print (2303.10512), and the 184 million of the model.

    Without the command, which would build the model to time it.
    """
    per_rank = 12 * (4 * (768 + 768) + 2 * (768 + 3_072))
    assert per_rank == 165_888
    spec = parse_spec(
        {
            "model": str(folder("deberta-v3-base")),
            "task": {"train": str(reviews), "text": "review", "label": "stars"},
            "methods": {"lora": {}},
            "budgets": ["72 ranks", 2 * per_rank, 4 * per_rank, 9 * per_rank - 1],
        }
    )
    cells = CellFactory(spec, sketch_inputs(spec))
    assert cells.inputs.backbone_parameters == 183_831_552
    rows = [row.plan for row in plan_sweep(cells).rows if row.budget is not None]
    assert [row.parameters for row in rows] == [per_rank, 2 * per_rank, 4 * per_rank, 8 * per_rank]
    assert [millions(row.parameters) for row in rows[1:]] == ["0.33M", "0.66M", "1.33M"]
    assert {len(row.ranks) for row in rows} == {72}


def test_opt_1_3b_has_196_608_parameters_per_rank_and_9_264_per_cp_component(plan):
    """q and v of 24 layers, as in the CP paper (2606.00428)."""
    planned = plan("opt-1.3b", [9_264, 196_608, 8 * 196_608], ["q_proj", "v_proj"], {"lora": {}, "cp": {}})
    assert parameters(planned) == {196_608: 196_608, 1_572_864: 1_572_864}
    assert parameters(planned, "cp") == {9_264: 9_264, 196_608: 21 * 9_264, 1_572_864: 169 * 9_264}
    assert [(gap["label"], gap["budget"]) for gap in planned["gaps"]] == [("lora", 9_264)]


def test_qwen3_0_6b_has_630_784_parameters_per_rank(plan):
    """Heads of 128 make q and o 2,048 wide, and 8 of 16 key-value heads make k and v 1,024 wide."""
    q_and_o, k_and_v, mlp = 2 * (1_024 + 2_048), 2 * (1_024 + 1_024), 3 * (1_024 + 3_072)
    per_rank = 28 * (q_and_o + k_and_v + mlp)
    planned = plan("qwen3-0.6b", ["196 ranks", 16 * per_rank])
    assert planned["backbone_parameters"] == 596_049_920
    # What Unsloth prints for rank 16 on these modules: 10,092,544 of 606,142,464.
    assert parameters(planned) == {630_784: 630_784, 10_092_544: 10_092_544}
    assert 596_049_920 + 10_092_544 == 606_142_464


def test_llama_3_1_70b_has_12_943_360_parameters_per_rank(plan):
    """8 key-value heads of 128 for 64 query heads make k and v 1,024 wide."""
    q_and_o, k_and_v, mlp = 2 * (8_192 + 8_192), 2 * (8_192 + 1_024), 3 * (8_192 + 28_672)
    per_rank = 80 * (q_and_o + k_and_v + mlp)
    planned = plan("llama-3.1-70b", ["560 ranks", 16 * per_rank])
    # What Unsloth prints for rank 16 on these modules: 207,093,760 of 70,760,800,256, the language head included.
    assert parameters(planned) == {12_943_360: 12_943_360, 207_093_760: 207_093_760}
    assert planned["backbone_parameters"] == 70_760_800_256 - 207_093_760 - 128_256 * 8_192
    assert planned["tokens_are_words"] and not planned["throughput"]["measured"]


@pytest.mark.soak
def test_every_method_can_be_planned_on_a_model_of_70_billion(plan):
    """Also per head, whose number differs between query and key; `para` plans its parent as well."""
    names = [method.name for method in BUILT_IN if method.name != "head_only"]
    planned = plan("llama-3.1-70b", ["8960 ranks"], methods={name: {} for name in names})
    rows = {row["label"]: row["parameters"] for row in planned["rows"]}
    assert rows.keys() | {gap["label"] for gap in planned["gaps"]} == set(names)
    assert all(count <= 207_093_760 for label, count in rows.items() if label != "full")
    assert rows["lora"] == rows["melora"] == rows["sequential"] == 207_093_760


def test_a_decoder_of_which_only_the_configuration_is_there_costs_twice_its_weights_per_token(folder, reviews):
    """Forward FLOPs: 2 a weight and token; attention adds little to texts of ten words."""
    spec = parse_spec(
        {
            "model": str(folder("llama-3.1-70b")),
            "task": {"train": str(reviews), "text": "review", "label": "stars"},
            "methods": {"lora": {}},
            "budgets": ["560 ranks"],
        }
    )
    inputs = sketch_inputs(spec)
    weights = inputs.backbone_parameters - 128_256 * 8_192
    assert expected_flops_per_token(inputs.model, inputs.data) == pytest.approx(2 * weights, rel=1e-3)
    split = inputs.data.splits["train"]
    assert split.lengths.min() >= 4 and split.lengths.max() <= 20  # words and no special tokens


def test_training_needs_a_tokenizer(tiny_model, tmp_path):
    """Some of transformers' tokenizers come up empty where there is no file."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadRequestError, match=r"model folder '.*' has no tokenizer"):
        load_backbone(str(folder), 2)
