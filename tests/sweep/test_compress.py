"""`adapad compress` on adapters that PEFT itself wrote: the same logits, the same energies, the count asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sweep_helpers import adapad

from adapad_ray.adapters.compression import compress_adapter as compress
from adapad_ray.errors import BadRequestError
from adapad_ray.testing import MethodCase

IDS = torch.arange(24).view(3, 8) % 17


def bert():
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).eval()


@dataclass(frozen=True)
class Foreign:
    """An adapter that PEFT saved, and the model it belongs to."""

    base: object
    folder: Path

    def model(self, folder=None):
        return peft.PeftModel.from_pretrained(self.base(), folder or self.folder).eval()

    def logits(self, folder=None):
        with torch.no_grad():
            return self.model(folder)(input_ids=IDS).logits.double().numpy()

    def updates(self, folder=None):
        """Module → dense ΔW, as PEFT computes it."""
        layers = {n: m for n, m in self.model(folder).named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
        return {n: layer.get_delta_weight("default").detach().double() for n, layer in layers.items()}


CASES = {
    "plain": (bert, {"target_modules": ["query", "value"]}),
    "every linear layer": (bert, {"target_modules": ["query", "key", "value", "dense"], "task_type": "SEQ_CLS"}),
    "rslora": (bert, {"target_modules": ["query", "dense"], "use_rslora": True, "lora_alpha": 3}),
    "patterns": (
        bert,
        {
            "target_modules": ["query", "output.dense"],
            "rank_pattern": {"0.attention.self.query": 2, r"1\..*\.dense": 7},
            "alpha_pattern": {"query": 0.5, "0.output.dense": 20},
            "use_rslora": True,
        },
    ),
    "negative scale": (bert, {"target_modules": ["query"], "alpha_pattern": {"0.attention.self.query": -4}}),
    "head": (bert, {"target_modules": ["value"], "modules_to_save": ["pooler", "classifier"]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}),
    "regex": (bert, {"target_modules": r".*layer\.1.*(query|value)"}),
}


def foreign(name, folder, dtype=torch.float32):
    """PEFT's own adapter for this case, its factors drawn at random, and the head that it saves changed."""
    base, settings = CASES[name]
    model = peft.get_peft_model(base(), peft.LoraConfig(**{"r": 5, "lora_alpha": 8, **settings}))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
                parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder)
    return Foreign(base, folder)


@pytest.fixture(params=CASES, ids=str)
def adapter(request, tmp_path):
    return foreign(request.param, tmp_path / "foreign")


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_keeping_everything_gives_the_same_logits(adapter, tmp_path):
    before = adapter.logits()
    assert not np.allclose(before, adapter.base()(input_ids=IDS).logits.detach().numpy(), atol=1e-3)
    for name, keep in {"ratio": {"ratio": 1.0}, "energy": {"energy": 1.0}, "budget": {"budget": "1M"}}.items():
        report = compress(adapter.folder, tmp_path / name, **keep)
        np.testing.assert_allclose(adapter.logits(tmp_path / name), before, rtol=0, atol=1e-5)
        assert report.energy_kept == 1.0 and report.relative_error < 1e-6
        merged = adapter.model(tmp_path / name).merge_and_unload()(input_ids=IDS).logits.detach().numpy()
        np.testing.assert_allclose(merged, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cut", ["global", "local", "uniform"])
def test_values_energies_and_errors_are_those_of_a_dense_svd(adapter, tmp_path, cut):
    report = compress(adapter.folder, tmp_path / "cut", ratio=0.4, cut=cut)
    before, after = adapter.updates(), adapter.updates(tmp_path / "cut")
    assert len(report.modules) == len(before)
    kept = total = error = 0.0
    for module in report.modules:
        name = "base_model.model." + module.module
        values = torch.linalg.svdvals(before[name])
        found = torch.tensor(module.singular_values, dtype=torch.float64)
        torch.testing.assert_close(found, values[: len(found)], rtol=1e-5, atol=1e-6)
        assert module.energy == pytest.approx(float(values.square().sum()), rel=1e-5)
        assert module.energy_kept == pytest.approx(float(values[: module.rank].square().sum()), rel=1e-5, abs=1e-9)
        left = before[name] - after.get(name, torch.zeros_like(before[name]))
        assert float(left.norm()) == pytest.approx(float(values[module.rank :].norm()), rel=1e-4, abs=1e-5)
        total, kept = total + module.energy, kept + module.energy_kept
        error += float(left.square().sum())
    assert report.energy_kept == pytest.approx(kept / total)
    assert report.relative_error == pytest.approx((error / total) ** 0.5, rel=1e-4)


def test_a_budget_is_met_to_the_parameter_and_the_file_says_what_the_report_says(adapter, tmp_path):
    whole = compress(adapter.folder, tmp_path / "whole", ratio=1.0).parameters
    budget = whole * 2 // 5
    report = compress(adapter.folder, tmp_path / "cut", budget=str(budget))
    stored = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    lora = {name: tensor for name, tensor in stored.items() if ".lora_" in name}
    assert sum(t.numel() for t in lora.values()) == report.parameters <= budget
    assert report.budget_remainder == budget - report.parameters
    assert report.budget_remainder < max(m.cost for m in report.modules)
    kept = {m.module: m.rank for m in report.modules if m.rank}
    assert {n: t.shape[0] for n, t in lora.items() if "lora_A" in n} == {
        f"base_model.model.{n}.lora_A.weight": rank for n, rank in kept.items()
    }
    written = json.loads((tmp_path / "cut" / "compression.json").read_text())
    assert written["parameters"] == report.parameters and written["keep"]["budget"] == budget
    assert [m["rank"] for m in written["modules"]] == [m.rank for m in report.modules]


def test_the_new_config_names_every_module_and_one_scale_serves_all(adapter, tmp_path):
    """A reader that knows `lora_alpha / r` only, and no pattern, applies the right scale too."""
    compress(adapter.folder, tmp_path / "cut", energy=0.8)
    old, new = config_of(adapter.folder), config_of(tmp_path / "cut")
    assert new["lora_alpha"] == new["r"] == max(new["rank_pattern"].values()) and not new["use_rslora"]
    assert new["rank_pattern"] == new["alpha_pattern"]
    assert len(new["rank_pattern"]) == len(new["target_modules"])
    assert all(key.startswith("^") and key.endswith("$") for key in new["rank_pattern"])
    for key in ("task_type", "fan_in_fan_out", "modules_to_save"):
        assert new[key] == old[key]
    assert set(adapter.model(tmp_path / "cut").peft_config["default"].target_modules) == set(new["target_modules"])


def test_a_module_that_keeps_nothing_is_left_out_and_the_rest_reloads(tmp_path):
    adapter = foreign("plain", tmp_path / "foreign")
    weights = adapter.folder / "adapter_model.safetensors"
    stored = load_file(weights)
    quiet = next(name for name in stored if "layer.1" in name and "query.lora_B" in name)
    stored[quiet] *= 1e-4
    save_file(stored, weights)
    report = compress(adapter.folder, tmp_path / "cut", energy=0.99)
    assert [m.module for m in report.modules if not m.rank] == [
        quiet.split("model.", 2)[-1].removesuffix(".lora_B.weight")
    ]
    assert len(adapter.updates(tmp_path / "cut")) == 3


def test_a_doubled_alpha_and_a_halved_b_are_the_same_adapter(tmp_path):
    adapter = foreign("plain", tmp_path / "foreign")
    expected = compress(adapter.folder, tmp_path / "first", ratio=0.5)
    config, weights = adapter.folder / "adapter_config.json", adapter.folder / "adapter_model.safetensors"
    config.write_text(json.dumps(config_of(adapter.folder) | {"alpha_pattern": {"0.attention.self.query": 16}}))
    stored = load_file(weights)
    stored["base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight"] /= 2
    save_file(stored, weights)
    found = compress(adapter.folder, tmp_path / "second", ratio=0.5)
    assert [m.rank for m in found.modules] == [m.rank for m in expected.modules]
    np.testing.assert_allclose(adapter.logits(tmp_path / "second"), adapter.logits(tmp_path / "first"), atol=1e-6)


def test_sixteen_bit_factors_stay_so_and_the_rounding_is_in_the_reported_error(tmp_path):
    adapter = foreign("every linear layer", tmp_path / "foreign", torch.bfloat16)
    report = compress(adapter.folder, tmp_path / "cut", ratio=1.0)
    stored = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {t.dtype for name, t in stored.items() if ".lora_" in name} == {torch.bfloat16}
    before, after = adapter.updates(), adapter.updates(tmp_path / "cut")
    total = sum(float(u.square().sum()) for u in before.values())
    error = sum(float((before[n] - after[n]).square().sum()) for n in before)
    assert 1e-4 < report.relative_error < 1e-2
    assert report.relative_error == pytest.approx((error / total) ** 0.5, rel=1e-2)


def test_the_command_prints_a_table_and_leaves_adapter_and_report(tmp_path):
    adapter = foreign("every linear layer", tmp_path / "foreign")
    code, output = adapad("compress", adapter.folder, "--to", tmp_path / "out", "--budget", "20 ranks")
    assert code == 0, output
    for words in ("attention.self.query", "intermediate.dense", "energy kept", "of the budget left"):
        assert words in output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "compression.json", "adapad.json"}
    code, output = adapad("compress", adapter.folder, "--to", tmp_path / "out", "--keep-ratio", 1)
    assert code == 2 and "is not an empty folder" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "exactly one of --keep-ratio, --keep-energy and --budget"),
        (["--keep-ratio", 0.5, "--budget", 100], "exactly one of"),
        (["--keep-ratio", 1.5], "keep ratio 1.5 must be above 0 and at most 1"),
        (["--keep-energy", 0], "keep energy 0.0 must be above 0"),
        (["--budget", "many"], "budget 'many' is not understood"),
        (["--budget", "1%"], "a share of a backbone"),
        (["--budget", "31"], "budget 31 is below the smallest component (32)"),
        (["--budget", "127", "--cut", "uniform"], "budget 127 is below one component on each of 4 modules (128)"),
        (["--keep-ratio", 0.5, "--cut", "best"], "cut 'best' is unknown: use global, local, uniform"),
    ],
    ids=str,
)
def test_a_bad_request_is_one_sentence_and_leaves_nothing(tmp_path, options, words):
    adapter = foreign("plain", tmp_path / "foreign")
    code, output = adapad("compress", adapter.folder, "--to", tmp_path / "out", *options)
    assert code == 2
    assert words in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_is_refused_with_a_reason_and_leaves_nothing(tmp_path):
    adapter = foreign("plain", tmp_path / "foreign")
    weights = adapter.folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    stored = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from the file
    nan = {name: torch.full_like(tensor, torch.nan) for name, tensor in stored.items()}
    half = {name: tensor for name, tensor in stored.items() if "0.attention.self.query.lora_A" not in name}
    for damage, words in (
        (lambda: weights.write_bytes(whole[:-100]), "is damaged or not a safetensors file"),
        (lambda: save_file(nan, weights), "not finite"),
        (lambda: save_file(half, weights), "has lora_B but no lora_A"),
        (lambda: weights.rename(weights.with_name("adapter_model.bin")), "pickled weights"),
        (lambda: (adapter.folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ):
        damage()
        code, output = adapad("compress", adapter.folder, "--to", tmp_path / "out", "--keep-ratio", 0.5)
        assert (code, output.count("\n")) == (2, 1), (words, output)
        assert words in output
        assert not (tmp_path / "out").exists()


def test_the_command_and_the_method_of_a_sweep_make_the_same_cut(tmp_path):
    """And what stands beside an adapter of ours, to rebuild its backbone and name its classes, goes along."""
    case = MethodCase("para", 1500, {"parent_rank": 5})
    result = case.run(tmp_path / "cell")
    parent = case.parent(case.identity()) / "adapter"
    report = compress(parent, tmp_path / "cut", budget="1500")
    assert {m.module: m.rank for m in report.modules if m.rank} == result.final.ranks
    mine, theirs = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("cut", "cell/adapter"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    beside = json.loads((tmp_path / "cut" / "adapad.json").read_text())
    assert beside["labels"] == ["without", "with"] and beside["compressed"]["keep"]["budget"] == 1500


def test_an_adapter_that_changes_nothing_is_refused(tmp_path):
    base, settings = CASES["plain"]
    peft.get_peft_model(base(), peft.LoraConfig(r=4, **settings)).save_pretrained(tmp_path / "new")
    with pytest.raises(BadRequestError, match="the adapter changes nothing"):
        compress(tmp_path / "new", tmp_path / "out", ratio=0.5)
