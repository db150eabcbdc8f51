"""A plain LoRA of any tool is read; what is damaged, or is more than B A, is refused by name."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapad_ray.adapters.load import load_adapter
from adapad_ray.errors import BadRequestError

PREFIX = "base_model.model."
CONFIG = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "someone/model",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["query", "dense"],
    "modules_to_save": ["classifier", "score"],
    "bias": "none",
    "use_rslora": False,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "loftq_config": {},
    "rank_pattern": {},
    "alpha_pattern": {},
}
SHAPES = {"enc.0.query": (6, 5), "enc.0.dense": (5, 7), "enc.1.query": (6, 5), "enc.1.dense": (5, 7)}


def tensors(ranks=None):
    generator = torch.Generator().manual_seed(0)
    found = {f"{PREFIX}classifier.weight": torch.randn(2, 3, generator=generator)}
    for name, (d_in, d_out) in SHAPES.items():
        rank = (ranks or {}).get(name, 4)
        found[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator)
        found[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator)
    return found


@pytest.fixture
def adapter(tmp_path):
    """Writes an adapter with changes to its config and to its tensors (None removes one); returns its folder."""

    def write(config=None, changes=None, ranks=None):
        content = {key: value for key, value in (CONFIG | (config or {})).items() if value != "absent"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(content))
        stored = tensors(ranks) | {PREFIX + name: value for name, value in (changes or {}).items()}
        save_file({k: v for k, v in stored.items() if v is not None}, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return write


def test_factors_scales_and_saved_modules_are_read(adapter):
    loaded = load_adapter(adapter())
    stored = tensors()
    assert set(loaded.factors) == set(SHAPES)
    for name, (a, b) in loaded.factors.items():
        assert torch.equal(a, stored[f"{PREFIX}{name}.lora_A.weight"])
        assert torch.equal(b, stored[f"{PREFIX}{name}.lora_B.weight"])
    assert loaded.scales == dict.fromkeys(SHAPES, 2.0)
    assert set(loaded.saved) == {"classifier.weight"}
    assert {m.name: (m.in_features, m.out_features) for m in loaded.shapes} == SHAPES
    a, b = loaded.folded()["enc.0.query"]
    assert a.dtype == b.dtype == torch.float64
    assert torch.equal(b, 2.0 * loaded.factors["enc.0.query"][1].double())


def test_patterns_name_modules_by_pefts_rule(adapter):
    """A key is a regular expression with an optional dotted prefix; what none matches has the default."""
    config = {
        "rank_pattern": {"query": 2, r"^enc\.1\.dense$": 3},
        "alpha_pattern": {"1.query": 1.5, "enc.[0-9].dense": -6},
    }
    loaded = load_adapter(adapter(config, ranks={"enc.0.query": 2, "enc.1.query": 2, "enc.1.dense": 3}))
    assert loaded.scales == {"enc.0.query": 8 / 2, "enc.1.query": 1.5 / 2, "enc.0.dense": -6 / 4, "enc.1.dense": -2.0}


def test_the_scale_of_rslora_is_alpha_over_the_root_of_the_rank(adapter):
    loaded = load_adapter(adapter({"use_rslora": True, "rank_pattern": {"0.query": 9}}, ranks={"enc.0.query": 9}))
    assert loaded.scales["enc.0.query"] == pytest.approx(8 / 3)
    assert loaded.scales["enc.1.query"] == pytest.approx(8 / math.sqrt(4))


def test_of_several_patterns_the_first_in_the_file_counts_and_unused_ones_are_ignored(adapter):
    patterns = {"rank_pattern": {"key": 9}, "alpha_pattern": {"query": 12, "0.query": 4, "key": 1}}
    loaded = load_adapter(adapter(patterns))
    assert loaded.scales == {name: 3.0 if "query" in name else 2.0 for name in SHAPES} and not loaded.notes


def test_targets_without_weights_are_noted(adapter):
    loaded = load_adapter(adapter({"target_modules": ["query", "dense", "key"]}))
    assert set(loaded.factors) == set(SHAPES)
    assert loaded.notes == (
        "target_modules names key, of which adapter_model.safetensors holds no weights: nothing is adapted there",
    )
    excluded = {"target_modules": ["query", "dense", "enc.0.mlp.up"], "exclude_modules": r".*mlp.*"}
    assert not load_adapter(adapter(excluded)).notes


def test_layers_to_transform_counts_the_first_number_of_a_path(adapter):
    changes = dict.fromkeys(f"enc.0.{part}.lora_{factor}.weight" for part in ("query", "dense") for factor in "AB")
    for layers in ([1], 1):
        with pytest.raises(BadRequestError, match=r"holds module enc\.1"):  # PEFT looks for a name before `enc`
            load_adapter(adapter({"layers_to_transform": layers}, changes))
        found = load_adapter(adapter({"layers_to_transform": layers, "layers_pattern": "enc"}, changes))
        assert set(found.factors) == {"enc.1.query", "enc.1.dense"}


def renamed(folder, rename):
    path = folder / "adapter_model.safetensors"
    save_file({rename(key): value for key, value in load_file(path).items()}, path)
    return folder


def test_names_of_wrappers_and_of_the_adapter_are_removed_and_said(adapter):
    clean = load_adapter(adapter())
    wrapped = load_adapter(renamed(adapter({"target_modules": ["_orig_mod.enc.0.query", "query", "dense"]}), wrap))
    named = load_adapter(renamed(adapter(), name_adapter))
    for loaded in (wrapped, named):
        assert loaded.factors.keys() == clean.factors.keys() and loaded.scales == clean.scales
        assert all(torch.equal(loaded.factors[name][0], a) for name, (a, _) in clean.factors.items())
        assert torch.equal(loaded.saved["classifier.weight"], clean.saved["classifier.weight"])
    assert "_checkpoint_wrapped_module, _orig_mod was removed from the names" in wrapped.notes[0]
    assert "the adapter's name 'v1' was removed" in named.notes[0]


def test_a_prefix_that_was_put_before_the_names_twice_is_removed_and_said(adapter):
    loaded = load_adapter(renamed(adapter(), lambda key: PREFIX + PREFIX + key))
    assert loaded.factors.keys() == load_adapter(adapter()).factors.keys()
    assert "base_model.model stood in the names of the tensors more than once" in loaded.notes[0]


def wrap(key):
    return key.replace(PREFIX, f"{PREFIX}_orig_mod.").replace(".query", "._checkpoint_wrapped_module.query")


def name_adapter(key):
    key = key.replace("lora_A.", "lora_A.v1.").replace("lora_B.", "lora_B.v1.")
    return key.replace("classifier.", "classifier.modules_to_save.v1.")


def test_two_adapters_in_one_file_and_names_that_become_equal_are_refused(adapter):
    second = {"enc.0.query.lora_A.v2.weight": torch.ones(4, 6), "enc.0.query.lora_B.v2.weight": torch.ones(5, 4)}
    with pytest.raises(BadRequestError, match=r"several adapters \(one without a name, v2\)"):
        load_adapter(adapter(changes=second))
    with pytest.raises(BadRequestError, match=r"holds enc.0.query.lora_A.weight twice"):
        load_adapter(adapter(changes={"_orig_mod.enc.0.query.lora_A.weight": torch.ones(4, 6)}))


def test_factors_of_8_bits_become_fp32(adapter):
    a = torch.randn(4, 6).to(torch.float8_e4m3fn)
    loaded = load_adapter(adapter(changes={"enc.0.query.lora_A.weight": a}))
    assert loaded.factors["enc.0.query"][0].dtype == torch.float32
    assert torch.equal(loaded.factors["enc.0.query"][0].float(), a.float())
    assert loaded.notes == ("tensors of torch.float8_e4m3fn are kept as torch.float32",)


def test_resized_embeddings_beside_the_factors_are_kept(adapter):
    loaded = load_adapter(adapter(changes={"model.embed_tokens.weight": torch.ones(9, 3)}))
    assert set(loaded.saved) == {"classifier.weight", "model.embed_tokens.weight"}


def test_a_string_of_target_modules_is_a_pattern_for_whole_paths(adapter):
    load_adapter(adapter({"target_modules": r"enc\.\d\.(query|dense)"}))
    load_adapter(adapter({"target_modules": "all-linear"}))
    load_adapter(adapter({"target_modules": None}))


def test_settings_that_change_nothing_are_let_through(adapter):
    config = {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "lora_dropout": 0.1, "runtime_config": {"x": 1}}
    load_adapter(adapter(config | {"unknown_but_unset": None, "use_dora": False, "modules_to_save": ["classifier"]}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "ADALORA"}, "'ADALORA' adapter: only peft_type LORA"),
        ({"use_dora": True}, r"uses DoRA, whose update is not a plain B A \(use_dora\)"),
        ({"lora_bias": True}, "a bias beside B"),
        ({"bias": "lora_only"}, "trains biases of the base model"),
        ({"use_qalora": True}, "QALoRA"),
        ({"layer_replication": [[0, 2]]}, "replicated layers"),
        ({"target_parameters": ["experts.w"]}, "bare parameters"),
        ({"trainable_token_indices": [1]}, "trained token embeddings"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base weights"),
        ({"invented_setting": 3}, "sets 'invented_setting', which is unknown"),
        ({"r": "absent"}, "r: field required"),
        ({"r": 0}, "r is 0: .*greater than or equal to 1"),
        ({"r": True}, "r is True"),
        ({"r": 4.5}, "r is 4.5"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan: .*finite"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern.query is 0"),
        ({"rank_pattern": {"query": [True, False]}}, "rank_pattern.query is"),
        ({"alpha_pattern": {"query": math.inf}}, "alpha_pattern.query is inf"),
        ({"r": 8}, "has rank 4 in its tensors but 8 in the config"),
        ({"rank_pattern": {"0.query": 2}}, "module enc.0.query has rank 4 in its tensors but 2 in the config"),
        ({"alpha_pattern": {"(query": 1}}, "which is not a regular expression"),
        ({"alpha_pattern": {"x" * 1001: 1}}, "pattern of 1,0.. characters"),
        ({"target_modules": ["query"]}, "holds module enc.0.dense, which target_modules and layers_to_transform do"),
        ({"layers_to_transform": [1]}, "holds module enc.0.dense, which target_modules and layers_to_transform do"),
        ({"target_modules": "enc.0.*"}, "holds module enc.1.dense, which target_modules and"),
        ({"exclude_modules": ["enc.1.query"]}, "holds module enc.1.query, which exclude_modules or modules_to_save"),
        ({"modules_to_save": ["score"]}, "holds classifier.weight, which is neither a LoRA factor"),
        ({"modules_to_save": None}, r"part of modules_to_save \(none\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_is_wrong_or_means_more_than_lora_is_refused(adapter, config, words):
    with pytest.raises(BadRequestError, match=words) as refused:
        load_adapter(adapter(config))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enc.0.query.lora_B.weight": None}, "enc.0.query has lora_A but no lora_B"),
        ({"enc.0.query.lora_A.weight": None}, "enc.0.query has lora_B but no lora_A"),
        ({"enc.0.query.lora_A.weight": torch.zeros(3, 6)}, r"lora_A \(3, 6\) and lora_B \(5, 4\)"),
        ({"enc.0.query.lora_A.weight": torch.zeros(6, 4)}, r"lora_A \(6, 4\)"),
        ({"enc.0.query.lora_A.weight": torch.zeros(4)}, r"lora_A \(4,\)"),
        ({"enc.0.query.lora_A.weight": torch.zeros(4, 0)}, r"lora_A \(4, 0\)"),
        (
            {"enc.0.query.lora_A.weight": torch.full((4, 6), math.nan)},
            "enc.0.query.lora_A.weight holds a value .* finite",
        ),
        ({"classifier.weight": torch.full((2, 3), math.inf)}, "classifier.weight holds a value that is not finite"),
        ({"enc.0.query.lora_A.weight": torch.zeros(4, 6, dtype=torch.int32)}, "int32, not floating point"),
        ({"enc.0.query.lora_A.weight": torch.zeros(4, 6, 3, 3)}, "enc.0.query is a convolution"),
        ({"emb.lora_embedding_A": torch.zeros(4, 6)}, "LoRA on an embedding"),
        ({"enc.0.query.lora_magnitude_vector": torch.zeros(5)}, "is a DoRA"),
        ({"enc.0.query.lora_B.bias": torch.zeros(5)}, "holds enc.0.query.lora_B.bias, which is neither"),
        ({"norm.weight": torch.zeros(9)}, "holds norm.weight, which is neither"),
        ({"../../etc/x.lora_A.weight": torch.zeros(4, 6)}, "names must be base_model.model."),
        ({"enc..query.lora_A.weight": torch.zeros(4, 6)}, "names must be base_model.model."),
        ({"classifier.weight": None}, "no weight of modules_to_save .*random head"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tensors_that_are_damaged_or_more_than_lora_are_refused(adapter, changes, words):
    with pytest.raises(BadRequestError, match=words) as refused:
        load_adapter(adapter(changes=changes))
    assert "\n" not in str(refused.value)


def test_a_pattern_that_never_ends_is_given_up(adapter, monkeypatch):
    monkeypatch.setattr("adapad_ray.safe_regex.MATCHING_SECONDS", 0.2)
    name = "e" * 40 + ".query"
    factors = {f"{name}.lora_A.weight": torch.ones(4, 6), f"{name}.lora_B.weight": torch.ones(5, 4)}
    with pytest.raises(BadRequestError, match="takes too long to match"):
        load_adapter(adapter({"alpha_pattern": {r"(?:(e)|(\w))*[0-9]": 1}}, factors))


def test_files_that_are_missing_pickled_or_cut_short_are_refused(adapter, tmp_path):
    folder = adapter()
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    for content in (whole[: len(whole) // 2], whole[:4], b"", b"\xff" * 8 + whole[8:]):
        weights.write_bytes(content)
        with pytest.raises(BadRequestError, match="is damaged or not a safetensors file"):
            load_adapter(folder)
    weights.unlink()
    with pytest.raises(BadRequestError, match=r"has no adapter_model\.safetensors"):
        load_adapter(folder)
    torch.save(tensors(), folder / "adapter_model.bin")
    with pytest.raises(BadRequestError, match=r"pickled weights \(adapter_model.bin\), which can run code"):
        load_adapter(folder)
    for content, words in (("{", "is not valid JSON"), ("[]", "one JSON object, not a list"), ("[" * 99999, "JSON")):
        config.write_text(content)
        with pytest.raises(BadRequestError, match=words):
            load_adapter(folder)
    config.unlink()
    with pytest.raises(BadRequestError, match=r"has no adapter_config.json: it is not an adapter in the PEFT format"):
        load_adapter(folder)
    (folder / "v1").mkdir()
    (folder / "v1" / "adapter_config.json").write_text(text)
    with pytest.raises(BadRequestError, match=rf"has no adapter_config.json: pass {folder / 'v1'}, which has one"):
        load_adapter(folder)
    with pytest.raises(BadRequestError, match="is not a folder"):
        load_adapter(tmp_path / "nowhere")
    config.write_text(text)
    weights.write_bytes(whole)
    assert set(load_file(weights)) == set(tensors())
    load_adapter(folder)


def test_names_without_pefts_prefix_are_refused(adapter):
    folder = adapter()
    stored = {key.removeprefix(PREFIX): value for key, value in tensors().items()}
    save_file(stored, folder / "adapter_model.safetensors")
    with pytest.raises(BadRequestError, match=r"names must be base_model\.model\.<module path>"):
        load_adapter(folder)
