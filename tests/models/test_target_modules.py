"""Presets of target modules and the geometry of heads, architecture by architecture."""

import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_skeleton
from adapad_ray.models.configs import find_config, list_configs
from adapad_ray.models.target_modules import base_prefix, target_modules
from tests.architectures import ARCHITECTURES

PUBLISHED = {
    "FacebookAI/roberta-base": 124_055_040,
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


def test_a_module_of_an_unsupported_class_is_rejected_by_name_wherever_it_is_selected():
    """A mixture of experts: one module holds the matrices of all experts."""
    with torch.device("meta"):
        model = transformers.MixtralForSequenceClassification(
            transformers.MixtralConfig(
                hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
            )
        )
    for spec in ("all-linear", ["q_proj", "experts"], ".*mlp.experts"):
        with pytest.raises(BadRequestError, match=r"module model\.layers\.0\.mlp\.experts is of class MixtralExperts"):
            target_modules(model, spec)
    assert [shape.name for shape in target_modules(model, ["q_proj"])] == ["model.layers.0.self_attn.q_proj"]
    with pytest.raises(BadRequestError, match="available are q_proj, k_proj, v_proj, o_proj, and the presets"):
        target_modules(model, ["gate_proj"])


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
