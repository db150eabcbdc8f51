"""Compression of adapters that PEFT itself wrote: the same logits, the energies of a dense SVD, the requested count."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapad_ray.adapters.compression import compress_adapter
from adapad_ray.errors import BadRequestError
from adapad_ray.testing import MethodCase
from tests.adapters.peft_adapters import CASES, CONFIGURATIONS, IDS, save_adapter


@pytest.fixture(params=CASES, ids=str)
def adapter(request, tmp_path):
    return save_adapter(request.param, tmp_path / "peft")


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_keeping_everything_gives_the_logits_that_peft_computes(name, tmp_path):
    adapter = save_adapter(name, tmp_path / "peft")
    before = adapter.logits()
    assert not np.allclose(before, adapter.base()(input_ids=IDS).logits.detach().numpy(), atol=1e-3)
    exact = adapter.logits(dtype=torch.float64)
    report = compress_adapter(adapter.folder, tmp_path / "all", ratio=1.0)
    np.testing.assert_allclose(adapter.logits(tmp_path / "all", torch.float64), exact, rtol=0, atol=1e-6)
    assert report.energy_kept == 1.0 and report.relative_error < 1e-6
    merged = [adapter.model(folder).merge_and_unload() for folder in (adapter.folder, tmp_path / "all")]
    logits = [model(input_ids=IDS).logits.detach().numpy() for model in merged]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", [{"energy": 1.0}, {"budget": "1M"}], ids=str)
def test_every_way_to_ask_for_everything_keeps_it(tmp_path, keep):
    adapter = save_adapter("patterns", tmp_path / "peft")
    assert compress_adapter(adapter.folder, tmp_path / "all", **keep).energy_kept == 1.0
    np.testing.assert_allclose(adapter.logits(tmp_path / "all"), adapter.logits(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cut", ["global", "local", "uniform"])
def test_values_energies_and_errors_are_those_of_a_dense_svd(adapter, tmp_path, cut):
    report = compress_adapter(adapter.folder, tmp_path / "cut", ratio=0.4, cut=cut)
    before, after = adapter.updates(), adapter.updates(tmp_path / "cut")
    assert len(report.modules) == len(before)
    kept = total = error = 0.0
    for module in report.modules:
        name = "base_model.model." + module.module
        values = torch.linalg.svdvals(before[name])
        reported = torch.tensor(module.singular_values, dtype=torch.float64)
        torch.testing.assert_close(reported, values[: len(reported)], rtol=1e-5, atol=1e-6)
        assert module.energy == pytest.approx(float(values.square().sum()), rel=1e-5)
        assert module.energy_kept == pytest.approx(float(values[: module.rank].square().sum()), rel=1e-5, abs=1e-9)
        left = before[name] - after.get(name, torch.zeros_like(before[name]))
        assert float(left.norm()) == pytest.approx(float(values[module.rank :].norm()), rel=1e-4, abs=1e-5)
        total, kept = total + module.energy, kept + module.energy_kept
        error += float(left.square().sum())
    assert report.energy_kept == pytest.approx(kept / total)
    assert report.relative_error == pytest.approx((error / total) ** 0.5, rel=1e-4)


def test_a_budget_is_met_to_the_parameter_and_the_file_holds_the_report(adapter, tmp_path):
    whole = compress_adapter(adapter.folder, tmp_path / "whole", ratio=1.0).parameters
    budget = whole * 2 // 5
    report = compress_adapter(adapter.folder, tmp_path / "cut", budget=str(budget))
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
    """A reader that ignores the patterns and uses `lora_alpha / r` applies the right scale too."""
    compress_adapter(adapter.folder, tmp_path / "cut", energy=0.8)
    old, new = config_of(adapter.folder), config_of(tmp_path / "cut")
    assert new["lora_alpha"] == new["r"] == max(new["rank_pattern"].values()) and not new["use_rslora"]
    assert new["rank_pattern"] == new["alpha_pattern"]
    assert len(new["rank_pattern"]) == len(new["target_modules"])
    assert all(key.startswith("^") and key.endswith("$") for key in new["rank_pattern"])
    for key in ("task_type", "fan_in_fan_out", "modules_to_save"):
        assert new[key] == old[key]
    assert set(adapter.model(tmp_path / "cut").peft_config["default"].target_modules) == set(new["target_modules"])


def test_a_module_that_keeps_nothing_is_left_out_and_the_rest_reloads(tmp_path):
    adapter = save_adapter("plain", tmp_path / "peft")
    weights = adapter.folder / "adapter_model.safetensors"
    stored = load_file(weights)
    quiet = next(name for name in stored if "layer.1" in name and "query.lora_B" in name)
    stored[quiet] *= 1e-4
    save_file(stored, weights)
    report = compress_adapter(adapter.folder, tmp_path / "cut", energy=0.99)
    assert [m.module for m in report.modules if not m.rank] == [
        quiet.split("model.", 2)[-1].removesuffix(".lora_B.weight")
    ]
    assert len(adapter.updates(tmp_path / "cut")) == 3


@pytest.mark.parametrize(
    ("rename", "note"),
    [
        (lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."), "'default'"),
        (lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."), "_orig_mod"),
        (lambda key: key.replace("base_model.model.", "base_model.model.module."), "'module'"),
    ],
    ids=["the adapter's name", "a compiled model", "data-parallel training"],
)
def test_what_peft_cannot_load_for_the_names_of_its_tensors_is_mended_and_said(tmp_path, rename, note):
    adapter = save_adapter("head", tmp_path / "peft")
    expected, weights = adapter.logits(), adapter.folder / "adapter_model.safetensors"
    save_file({rename(key): value for key, value in load_file(weights).items()}, weights)
    report = compress_adapter(adapter.folder, tmp_path / "out", ratio=1.0)
    np.testing.assert_allclose(adapter.logits(tmp_path / "out"), expected, rtol=0, atol=1e-5)
    assert len(report.notes) == 1 and note in report.notes[0]


def test_factors_of_8_bits_are_cut_in_fp32(tmp_path):
    adapter = save_adapter("plain", tmp_path / "peft", torch.float8_e4m3fn)
    report = compress_adapter(adapter.folder, tmp_path / "out", ratio=1.0)
    assert "float8_e4m3fn" in report.notes[0]
    np.testing.assert_allclose(adapter.logits(tmp_path / "out"), adapter.logits(), rtol=0, atol=1e-5)


def test_a_doubled_alpha_and_a_halved_b_are_the_same_adapter(tmp_path):
    adapter = save_adapter("plain", tmp_path / "peft")
    expected = compress_adapter(adapter.folder, tmp_path / "first", ratio=0.5)
    config, weights = adapter.folder / "adapter_config.json", adapter.folder / "adapter_model.safetensors"
    config.write_text(json.dumps(config_of(adapter.folder) | {"alpha_pattern": {"0.attention.self.query": 16}}))
    stored = load_file(weights)
    stored["base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight"] /= 2
    save_file(stored, weights)
    report = compress_adapter(adapter.folder, tmp_path / "second", ratio=0.5)
    assert [m.rank for m in report.modules] == [m.rank for m in expected.modules]
    np.testing.assert_allclose(adapter.logits(tmp_path / "second"), adapter.logits(tmp_path / "first"), atol=1e-6)


def test_16_bit_factors_keep_their_dtype_and_the_reported_error_includes_the_rounding(tmp_path):
    adapter = save_adapter("every linear layer", tmp_path / "peft", torch.bfloat16)
    report = compress_adapter(adapter.folder, tmp_path / "cut", ratio=1.0)
    stored = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {t.dtype for name, t in stored.items() if ".lora_" in name} == {torch.bfloat16}
    before, after = adapter.updates(), adapter.updates(tmp_path / "cut")
    total = sum(float(u.square().sum()) for u in before.values())
    error = sum(float((before[n] - after[n]).square().sum()) for n in before)
    assert 1e-4 < report.relative_error < 1e-2
    assert report.relative_error == pytest.approx((error / total) ** 0.5, rel=1e-2)


def test_compression_and_the_method_para_make_the_same_cut(tmp_path):
    """The record next to an adapter, which names its backbone and its classes, is copied."""
    case = MethodCase("para", 1500, {"parent_rank": 5})
    result = case.run(tmp_path / "cell")
    parent = case.parent(case.identity()) / "adapter"
    report = compress_adapter(parent, tmp_path / "cut", budget="1500")
    assert {m.module: m.rank for m in report.modules if m.rank} == result.final.ranks
    compressed, trained = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("cut", "cell/adapter"))
    assert compressed.keys() == trained.keys()
    assert all(torch.equal(compressed[name], trained[name]) for name in compressed)
    record = json.loads((tmp_path / "cut" / "adapad.json").read_text())
    assert record["labels"] == ["without", "with"] and record["compressed"]["keep"]["budget"] == 1500


def test_an_adapter_that_changes_nothing_is_rejected(tmp_path):
    base, settings = CASES["plain"]
    peft.get_peft_model(base(), peft.LoraConfig(r=4, **settings)).save_pretrained(tmp_path / "new")
    with pytest.raises(BadRequestError, match="the adapter changes nothing"):
        compress_adapter(tmp_path / "new", tmp_path / "out", ratio=0.5)
