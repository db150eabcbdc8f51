"""The curve's table, checked against the records and an independent resampling."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from adapad_ray.errors import BadRequestError
from adapad_ray.report.curves import Curves, PointKey
from adapad_ray.report.records import load_results
from tests.report.factory import MODULES, RANK_ONE, SweepFactory


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "sweep")


def table(factory, **settings):
    return Curves(load_results(factory.folder), factory.folder, **settings).table()


def test_one_row_per_point_over_its_seeds(factory):
    factory.sweep()
    factory.cell("lora", 41_472, 0, 0.9, stage="tune")
    results = load_results(factory.folder)
    table = Curves(results, factory.folder).table()
    assert not table.duplicated(["label", "budget", "kind", "prefix"]).any()
    finals = table[table["kind"] == "final"]
    assert len(finals) == 1 + 3 + 4 + 4 and (table["n_seeds"] == 3).all()
    lora = table[(table["label"] == "lora") & (table["budget"] == 41_472)].iloc[0]
    cells = [r for r in results if r.identity.label == "lora" and r.identity.budget == 41_472]
    tests = [r.final.test["accuracy"] for r in cells if r.identity.stage == "curve"]
    assert lora["test_mean"] == pytest.approx(np.mean(tests)) and lora["test_std"] == pytest.approx(
        np.std(tests, ddof=1)
    )
    assert lora["train_seconds"] == pytest.approx(21.0)
    assert (table["test_low"] <= table["test_mean"]).all() and (table["test_mean"] <= table["test_high"]).all()
    assert list(table)[:5] == ["label", "budget", "kind", "prefix", "method"]


def test_the_interval_covers_the_scatter_of_seeds_and_of_items(factory):
    for seed in range(4):
        factory.cell("lora", 41_472, seed, 0.7 + 0.03 * seed)
    row = table(factory, draws=20_000).iloc[0]
    tensors = [load_file(path) for path in sorted(factory.folder.glob("cells/*/predictions.safetensors"))]
    correct = np.stack([t["test/final"].argmax(1) == t["test/labels"] for t in tensors]).astype(float)
    seeds, items = len(correct), correct.shape[1]
    of_seeds = correct.mean(axis=1).var(ddof=1) / seeds
    shared = np.cov(correct)[~np.eye(seeds, dtype=bool)].mean() / items
    half = np.hypot(stats.t.ppf(0.975, 3) * np.sqrt(of_seeds), stats.t.ppf(0.975, items - 1) * np.sqrt(shared))
    assert (row["test_high"] - row["test_mean"], row["test_mean"] - row["test_low"]) == pytest.approx(
        (half, half), rel=0.02
    )


def test_an_interval_is_clipped_at_the_largest_metric(factory):
    for seed in range(2):
        factory.cell("lora", 41_472, seed, 1.0 - 0.06 * seed)
    row = table(factory, draws=100).iloc[0]
    assert row["test_high"] == 1 > row["test_mean"] > row["test_low"]


def test_what_an_adapter_costs_on_disk_and_in_memory(factory):
    cell = factory.cell("lora", 41_472, 0, 0.8, adapter=True)
    (factory.folder / "cells" / cell.id / "adapter" / "adapter_model.safetensors").write_bytes(bytes(1000))
    factory.cell("full", None, 0, 0.8)
    rows = table(factory, draws=50).set_index("label")
    assert rows.loc["lora", "adapter_bytes"] == 1002 and np.isnan(rows.loc["full", "adapter_bytes"])
    assert rows.loc["lora", "peak_memory_bytes"] == 400_000_000


def test_the_same_generator_gives_the_same_table(factory):
    factory.sweep()
    results = load_results(factory.folder)
    tables = [Curves(results, factory.folder, generator=np.random.default_rng(5), draws=200).table() for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_discovered_ranks_may_differ_by_seed(factory):
    factory.cell("adapad", 10_368, 0, 0.8, parameters=9_216, ranks={MODULES[0]: 8})
    factory.cell("adapad", 10_368, 1, 0.8, parameters=10_368, ranks={MODULES[0]: 4, MODULES[1]: 5})
    row = table(factory, draws=50).iloc[0]
    assert (row["parameters"], row["parameters_low"], row["parameters_high"]) == (9_792, 9_216, 10_368)
    assert row["mean_rank"] == pytest.approx(8.5 / len(MODULES)) and row["max_rank"] == 8


def test_prefixes_are_points_of_their_own(factory):
    factory.cell("adapad", 165_888, 0, 0.8, prefixes={2: 0.78, 1: 0.75})
    rows = table(factory, draws=50)
    assert rows["prefix"].tolist()[1:] == [2, 1]
    assert rows["parameters"].tolist()[1:] == [2 * RANK_ONE * 36, RANK_ONE * 36]


def test_differences_are_paired_by_seed_and_item(factory):
    for seed in range(3):
        factory.cell("lora", 41_472, seed, 0.7 + 0.05 * seed)
        factory.cell("aslo", 41_472, seed, 0.7 + 0.05 * seed)
    factory.cell("aslo", 41_472, 7, 0.1)
    curves = Curves(load_results(factory.folder), factory.folder, draws=100)
    keys = [PointKey(label, 41_472, "final", None) for label in ("lora", "aslo")]
    difference = curves.test[keys[0]].minus(curves.test[keys[1]])
    assert difference.seeds == (0, 1, 2)
    assert difference.estimate.mean == 0 and difference.estimate.p_value == 1


def test_predictions_that_contradict_the_record_are_rejected(factory):
    result = factory.cell("lora", 41_472, 0, 0.8)
    path = factory.folder / "cells" / result.id / "result.json"
    wrong = result.final.model_copy(update={"test": {"accuracy": 0.99}})
    path.write_text(result.model_copy(update={"points": (wrong,)}).model_dump_json())
    with pytest.raises(BadRequestError, match="stored predictions give"):
        table(factory)


def test_two_cells_with_the_same_label_budget_and_seed_are_rejected(factory):
    result = factory.cell("lora", 41_472, 0, 0.8)
    twin = result.model_copy(update={"id": "twin"})
    with pytest.raises(BadRequestError, match="pass the cells to use"):
        Curves([result, twin], factory.folder)


def test_cells_that_were_evaluated_on_different_items_are_rejected(factory):
    factory.cell("lora", 41_472, 0, 0.8)
    other = SweepFactory(factory.folder, items=300)
    other.cell("lora", 41_472, 1, 0.8)
    with pytest.raises(BadRequestError, match="different validation items"):
        table(factory)
