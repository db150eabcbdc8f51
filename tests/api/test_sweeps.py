"""`plan`, `sweep` and `load_sweep`: a sweep from a mapping, on Ray, as tables and figures."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

import adapad_ray as ar
from adapad_ray.errors import BadRequestError

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory, tiny_model, reviews):
    place = tmp_path_factory.mktemp("sweep")
    return {
        "name": "tiny",
        "model": str(tiny_model),
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {}},
        "budgets": [RANK_1 // 2, RANK_1],
        "seeds": [0],
        "training": {"epochs": 1, "max_length": 32, "learning_rate": 5e-3, "max_train_examples": 64},
        "storage": str(place / "runs"),
        "tracking": f"sqlite:///{place}/mlflow.db",
    }


def test_a_plan_is_a_table_of_exact_parameters(spec):
    plan = ar.plan(spec)
    rows = plan.table.set_index(["label", "budget"])
    assert rows.loc[("lora", RANK_1), "parameters"] == RANK_1
    assert plan.gaps["label"].tolist() == ["lora"] and plan.gaps["budget"].tolist() == [RANK_1 // 2]
    assert plan.seconds > 0 and "4 cells of the curve stage" in repr(plan)
    assert f"{RANK_1:,}" in plan._repr_html_() and "Gaps" not in repr(plan)


def test_a_file_and_its_mapping_are_the_same_sweep_and_overrides_replace_fields(spec, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in spec.items() if key != "name"}, sort_keys=False))
    one, other = ar.plan(path, **{"training.epochs": 2}), ar.plan({**spec, "name": "mine"}, **{"training.epochs": 2})
    assert one.table.drop(columns="train_seconds").equals(other.table.drop(columns="train_seconds"))
    assert set(one.table["steps"]) == {8} and set(ar.plan(path, **{"training.epochs": 1e-5}).table["steps"]) == {1}
    assert ar.plan(path, budgets=[RANK_1]).gaps.empty
    with pytest.raises(BadRequestError, match="traning is unknown: did you mean training"):
        ar.plan(spec, traning={"epochs": 1})


@pytest.fixture(scope="module")
def swept(spec, cluster):
    return ar.sweep(spec, progress=False)


@pytest.mark.xdist_group("clusters")
class TestSweep:
    def test_it_returns_the_curve_and_the_recommendation(self, swept):
        curve = swept.curve
        finals = curve[curve["kind"] == "final"]
        assert set(finals["label"]) == {"head_only", "lora", "adapad"} and len(finals) == 4
        assert swept.failed == [] and swept.missing == 0 and [gap.label for gap in swept.gaps] == ["lora"]
        assert swept.recommendation.sentence in repr(swept)
        assert "<table" in swept._repr_html_() and isinstance(swept.figure(), Figure)

    def test_the_folder_is_loaded_again(self, swept, spec):
        loaded = ar.load_sweep(swept.location)
        pd.testing.assert_frame_equal(loaded.curve, swept.curve)
        assert loaded.recommendation == swept.recommendation
        written = pd.read_csv(loaded.folder / "curve.csv")
        pd.testing.assert_frame_equal(loaded.curve, written.astype(loaded.curve.dtypes))

    def test_an_adapter_is_exported_by_its_row(self, swept, tmp_path):
        exported = swept.export(tmp_path / "adapter", method="adapad", budget=RANK_1)
        assert exported.cell.identity.label == "adapad" and exported.point.parameters <= RANK_1
        assert (tmp_path / "adapter" / "adapter_config.json").exists()
        with pytest.raises(BadRequestError, match="has no finished cell of 'cp'"):
            swept.export(tmp_path / "cp", method="cp", budget=RANK_1)

    def test_running_it_again_computes_nothing(self, swept, spec, capsys):
        ar.sweep(spec)
        shown = " ".join(capsys.readouterr().out.split())
        assert "All 4 cells are finished: nothing to compute." in shown


def test_a_folder_without_a_sweep_is_one_sentence(tmp_path):
    with pytest.raises(BadRequestError, match="holds no sweep"):
        ar.load_sweep(tmp_path)
