"""Target modules by name, pattern and preset, and the geometry of heads, architecture by architecture."""

from collections import Counter

import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_skeleton
from adapad_ray.models.configs import find_config, list_configs
from adapad_ray.models.target_modules import base_prefix, left_out, target_modules
from tests.architectures import ARCHITECTURES, DECODER
from tests.models.tiny_configs import tiny_config

PUBLISHED = {
    "FacebookAI/roberta-base": 124_055_040,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "facebook/opt-1.3b": 1_315_758_080,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/paligemma2-3b-pt-224": 3_032_242_416,
    "google/siglip2-base-patch16-224": 92_884_224,
    "meta-llama/Llama-3.1-70B": 69_503_033_344,
    "microsoft/deberta-v3-base": 183_831_552,
}
"""Parameters of the models whose sizes the package keeps, task head and untied language head apart."""


def build(config):
    """The task model without weights: a classifier of texts or images, or what answers about an image."""
    kinds = (
        transformers.AutoModelForSequenceClassification,
        transformers.AutoModelForImageClassification,
        transformers.AutoModelForImageTextToText,
    )
    kind = next(kind for kind in kinds if type(config) in kind._model_mapping)
    with torch.device("meta"):
        return kind.from_config(config)


def geometry(shapes, prefix):
    """The modules whose paths start so: the rest of the path → features in and out, and the heads."""
    return {
        shape.name.removeprefix(prefix): (shape.in_features, shape.out_features, shape.heads, shape.heads_read)
        for shape in shapes
        if shape.name.startswith(prefix)
    }


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "paligemma"])
def test_presets_are_the_parts_of_every_layer(name):
    model, layer = build(ARCHITECTURES[name].config()), ARCHITECTURES[name].layer
    attention, mlp = target_modules(model, "attention"), target_modules(model, "mlp")
    assert {*attention, *mlp} == set(target_modules(model, "all-linear"))
    for i in range(2):
        start = attention[0].name.index(".0.")
        prefix = f"{attention[0].name[:start]}.{i}."
        assert geometry(attention, prefix) == layer.attention
        assert geometry(mlp, prefix) == {path: (*sizes, 1, False) for path, sizes in layer.mlp.items()}
    assert len(attention) == 2 * len(layer.attention) and len(mlp) == 2 * len(layer.mlp)


def test_each_tower_of_a_model_for_images_and_texts_has_heads_of_its_own():
    """PaliGemma: the vision tower has 2 heads of 16, the language model 4 for queries and 2 for keys and values."""
    model = build(ARCHITECTURES["paligemma"].config())
    shapes = target_modules(model, "attention")
    vision = geometry(shapes, "model.vision_tower.encoder.layers.1.self_attn.")
    assert vision == {f"{name}_proj": (32, 32, 2, name == "out") for name in ("k", "v", "q", "out")}
    language = geometry(shapes, "model.language_model.layers.1.")
    assert language == ARCHITECTURES["paligemma"].layer.attention
    everything = [shape.name for shape in target_modules(model, "all-linear")]
    assert len(everything) == 2 * (6 + 7) and not any("projector" in name or "lm_head" in name for name in everything)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_neither_heads_nor_embeddings_are_ever_matched(name):
    """Not even by a pattern: OPT's projections of embeddings and SigLIP's pooling head are linear, too."""
    model = build(ARCHITECTURES[name].config())
    base = base_prefix(model)
    assert base
    for shape in target_modules(model, ".*(?<!project_in)(?<!project_out)(?<!multi_modal_projector.linear)"):
        assert shape.name.startswith(base) and any(part in shape.name for part in (".layers.", ".layer.", ".h."))


def test_deberta_without_shared_keys_adapts_its_projections_of_positions_only_as_all_linear():
    config = ARCHITECTURES["deberta-v2"].config()
    config.share_att_key = False
    model = build(config)
    extra = {s.name for s in target_modules(model, "all-linear")} - {
        s.name for preset in ("attention", "mlp") for s in target_modules(model, preset)
    }
    assert {name.rpartition(".")[2] for name in extra} == {"pos_key_proj", "pos_query_proj"}


def test_a_preset_of_an_unknown_architecture_is_refused_with_the_names_there_are():
    with torch.device("meta"):
        model = transformers.MPNetForSequenceClassification(
            transformers.MPNetConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        )
    with pytest.raises(BadRequestError, match="target_modules mlp is not defined for architecture 'mpnet'"):
        target_modules(model, "mlp")
    assert len(target_modules(model, "all-linear")) == 6


def causal(config_class, **sizes):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config_class(**DECODER, **sizes))


@pytest.mark.parametrize(
    ("config", "sizes", "experts", "router"),
    [
        (transformers.MixtralConfig, {"num_local_experts": 4}, 4 * 3 * 32 * 48, "mlp.gate"),
        (transformers.Qwen3MoeConfig, {"num_experts": 4, "moe_intermediate_size": 8}, 4 * 3 * 32 * 8, "mlp.gate"),
        (transformers.GptOssConfig, {"num_local_experts": 4}, 4 * (3 * 32 * 48 + 2 * 48 + 32), "mlp.router"),
        (transformers.Llama4TextConfig, {"num_local_experts": 4}, 4 * 3 * 32 * 48, "feed_forward.router"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_all_linear_takes_what_is_around_experts_in_one_parameter_and_says_what_it_leaves_out(
    config, sizes, experts, router
):
    model = causal(config, **sizes)
    names = {shape.name.rpartition(".")[2] for shape in target_modules(model, "all-linear")}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= names and "router" not in names
    words = left_out(model)
    share = (experts + 4 * 32) * 2 / sum(p.numel() for p in model.parameters())
    for parameter in (f"{router}.weight", ".experts.gate_up_proj", ".experts.down_proj"):
        assert parameter in words
    assert f" of 2 layers, {share:.1%} of the model's parameters" in words
    layer = router.partition(".")[0]
    for spec in (["q_proj", "experts"], f".*{layer}.experts"):
        with pytest.raises(BadRequestError, match=rf"layers\.0\.{layer}\.experts is of class \w+Experts"):
            target_modules(model, spec)
    with pytest.raises(BadRequestError, match=rf"'gate_up_proj' names .*{layer}\.experts of class \w+Experts,"):
        target_modules(model, ["gate_up_proj"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_leaves_nothing_out_of_a_dense_model(name):
    assert left_out(build(ARCHITECTURES[name].config())) is None


def test_a_layer_of_an_unsupported_class_is_not_left_out_in_silence():
    class Doubled(torch.nn.Linear):
        pass

    model = causal(transformers.LlamaConfig)
    model.model.layers[1].self_attn.q_proj = Doubled(32, 64)
    with pytest.raises(BadRequestError, match=r"layers\.1\.self_attn\.q_proj is of class Doubled"):
        target_modules(model, "all-linear")


def test_the_output_layer_of_a_language_model_is_adapted_where_a_list_names_it():
    model = causal(transformers.LlamaConfig)
    everything = target_modules(model, "all-linear")
    assert len(target_modules(model, ["q_proj", "lm_head"])) == 3
    (output,) = target_modules(model, ["lm_head"])
    assert (output.in_features, output.out_features, output.heads) == (32, 100, 1)
    for spec in ("all-linear", ".*", "attention"):
        assert set(target_modules(model, spec)) <= set(everything)


def test_a_tied_output_layer_and_embeddings_are_refused():
    model = causal(transformers.LlamaConfig, tie_word_embeddings=True)
    with pytest.raises(BadRequestError, match="lm_head, whose weight is that of the input embedding"):
        target_modules(model, ["q_proj", "lm_head"])
    with pytest.raises(BadRequestError, match=r"'embed_tokens' names model\.embed_tokens of class Embedding, which"):
        target_modules(model, ["embed_tokens"])
    with pytest.raises(BadRequestError, match="'lm_head' matches no linear layer of the backbone"):
        target_modules(build(ARCHITECTURES["llama"].config()), ["lm_head"])


def test_a_misspelt_preset_is_named():
    model = build(ARCHITECTURES["bert"].config())
    with pytest.raises(BadRequestError, match="did you mean 'attention'"):
        target_modules(model, "atention")


def test_the_sizes_that_are_kept_are_those_of_the_authors_models(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert list_configs() == sorted(PUBLISHED)
    for name, parameters in PUBLISHED.items():
        model = build(transformers.AutoConfig.from_pretrained(find_config(name)))
        base = model.get_submodule(base_prefix(model).rstrip("."))
        assert sum(p.numel() for p in base.parameters()) == parameters, name


def test_a_model_of_the_hub_is_sketched_from_its_kept_sizes(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shapes = target_modules(load_skeleton("microsoft/deberta-v3-base", 2), "all-linear")
    assert sum(shape.component_cost for shape in shapes) == 165_888
    with pytest.raises(BadRequestError, match="nobody/nothing"):
        load_skeleton("nobody/nothing", 2)


def test_all_linear_is_36_modules_of_minilm(minilm):
    shapes = target_modules(minilm.model, "all-linear")
    assert len(shapes) == 36
    assert sum(shape.in_features + shape.out_features for shape in shapes) == 41_472
    assert shapes[0].name == "bert.encoder.layer.0.attention.self.query"
    assert [shape.name.split(".")[3] for shape in shapes] == [str(layer) for layer in range(6) for _ in range(6)]
    own = load_skeleton("minilm-l6", 2, pooling="own")
    assert target_modules(own, "all-linear") == shapes, "the pooler is not adapted"


def test_names_match_as_in_peft(minilm):
    shapes = target_modules(minilm.model, ["value", "query"])
    assert sum(shape.in_features + shape.out_features for shape in shapes) == 9_216
    assert [shape.name.rpartition(".")[2] for shape in shapes] == ["query", "value"] * 6
    dense = target_modules(load_skeleton("minilm-l6", 2, pooling="own"), ["dense"])
    assert Counter(shape.name.split(".")[0] for shape in dense) == {"bert": 18}
    assert not any("pooler" in shape.name for shape in dense)
    (one,) = target_modules(minilm.model, ["bert.encoder.layer.5.intermediate.dense"])
    assert (one.in_features, one.out_features) == (384, 1536)


def test_a_pattern_matches_whole_paths(minilm):
    shapes = target_modules(minilm.model, r".*\.layer\.[45]\.attention\.self\.(query|key)")
    assert len(shapes) == 4
    with pytest.raises(BadRequestError):
        target_modules(minilm.model, r"layer\.[45]\.attention\.self\.query")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["qurey"], "'qurey' matches no linear layer.*did you mean 'query'"),
        (["query", "w_o"], "'w_o' matches no linear layer.*available are query, key, value, dense"),
        (["classifier"], "pooler and head are not adapted"),
        (["uery"], "'uery' matches no linear layer"),
        ([], "empty list"),
        ("(query", "is not a regular expression"),
        ("q" * 1001, "1,001 characters"),
        (".*classifier", "matches no linear layer"),
    ],
)
def test_bad_target_modules(minilm, spec, message):
    with pytest.raises(BadRequestError, match=message):
        target_modules(minilm.model, spec)


def test_a_model_without_linear_layers_has_no_all_linear():
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[8] * 4))
    with pytest.raises(BadRequestError, match="all-linear finds no linear layer"):
        target_modules(model, "all-linear")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            tiny_config(transformers.BertConfig, num_attention_heads=4),
            {"query": (4, False), "attention.output.dense": (4, True)},
        ),
        (
            tiny_config(transformers.OPTConfig, ffn_dim=32),
            {"v_proj": (2, False), "out_proj": (2, True), "fc1": (1, False)},
        ),
        (
            tiny_config(transformers.Qwen3Config, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
            {
                "q_proj": (4, False),
                "k_proj": (2, False),
                "v_proj": (2, False),
                "o_proj": (4, True),
                "up_proj": (1, False),
            },
        ),
        (
            transformers.DistilBertConfig(dim=16, hidden_dim=32, n_layers=2, n_heads=4),
            {"q_lin": (4, False), "out_lin": (4, True), "lin1": (1, False)},
        ),
        (
            tiny_config(transformers.DebertaV2Config, num_attention_heads=4),
            {"key_proj": (4, False), "attention.output.dense": (4, True), "intermediate.dense": (1, False)},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_attention_heads_come_from_the_models_configuration(config, expected):
    """Heads share the output of query, key and value, and the input of what brings them together; others have none."""
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    for suffix, heads in expected.items():
        shapes = target_modules(model, [suffix])
        assert len(shapes) == 2
        assert {(shape.heads, shape.heads_read) for shape in shapes} == {heads}, suffix
