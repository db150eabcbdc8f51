"""`sweeps/bilinear_convergence.yaml`: it can be planned, and shows what it is there to show."""

import json
from pathlib import Path

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.report.convergence import label_convergences
from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.sweep.inputs import load_inputs, sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell

FILE = Path(__file__).parents[2] / "sweeps" / "bilinear_convergence.yaml"


def test_the_plan_without_weights_is_that_of_the_sweep():
    spec = load_spec(FILE)
    plans = [plan_sweep(CellFactory(spec, inputs)) for inputs in (sketch_inputs(spec), load_inputs(spec).inputs)]
    assert [(row.label, row.plan) for row in plans[0].rows] == [(row.label, row.plan) for row in plans[1].rows]
    assert plans[0].budgets == [4 * (32 + 24)]
    lanes = {row.label: row.plan.lanes for row in plans[0].rows}
    assert lanes["adapad/advance"] == 4 and lanes["sequential"] == 1
    assert {row.plan.parameters for row in plans[0].rows} == {224}, "nothing grows"


def test_several_workers_are_not_refused():
    spec = load_spec(FILE, ["resources.workers=2"])
    assert not plan_sweep(CellFactory(spec, sketch_inputs(spec))).gaps


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=minilm-l6"], "model 'minilm-l6' does not go with this task"),
        (["task=rotten-tomatoes"], "model 'linear' does not go with this task"),
        (["training.max_train_examples=10"], "training.max_train_examples is for texts"),
        (["dtype=float8"], "dtype is 'float8'"),
        (["task.spectrum=[1,1]"], "must fall strictly"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, message):
    with pytest.raises(BadRequestError, match=message):
        load_inputs(load_spec(FILE, overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Every label of the file for one seed, computed in this process."""
    folder = tmp_path_factory.mktemp("runs") / "bilinear"
    spec = load_spec(FILE, ["seeds=[0]"])
    loaded = load_inputs(spec)
    workspace, results = Workspace(loaded.recipe.load(), loaded.inputs.data), {}
    cells = CellFactory(spec, loaded.inputs)
    for wave in CurveCells(cells, plan_sweep(cells)).waves(None, results):
        for planned in wave:
            place = planned.cell.folder(folder)
            request = CellRequest(planned.id, planned.cell.identity, place, spec.model)
            results[planned.id] = run_cell(request, workspace)
    return folder, {one.label: one for one in label_convergences(list(results.values()), folder)}


@pytest.mark.parametrize("label", ["advance", "no-advance", "stale-1", "stale-4"])
def test_every_component_of_parallel_deflation_gets_below_1e_6(finished, label):
    components = finished[1][f"adapad/{label}"].components
    assert len(components) == 4
    assert max(component.final for component in components) < 1e-6


@pytest.mark.parametrize("schedule", ["sequential", "sequential/more-first", "sequential/less-first"])
def test_parallel_needs_fewer_rounds_than_sequential_at_equal_work(finished, schedule):
    _, labels = finished
    parallel, sequential = labels["adapad/advance"], labels[schedule]
    assert parallel.local_steps == sequential.local_steps == 1200
    assert 4 * parallel.rounds < sequential.rounds


def test_at_equal_rounds_sequential_does_not_get_there(finished):
    one = finished[1]["sequential/equal-rounds"]
    assert one.total_rounds == finished[1]["adapad/advance"].total_rounds == 60
    assert max(component.final for component in one.components) > 1e-3


def test_the_bounds_shape_lies_above_the_errors(finished):
    for component in finished[1]["adapad/advance"].components:
        bound = component.bound()
        errors = component.errors[0].reindex(bound.index)
        assert component.warm_up <= 2 * component.number and (errors <= bound).all()


def test_advance_learning_does_not_slow_down(finished):
    _, labels = finished
    assert labels["adapad/advance"].rounds <= labels["adapad/no-advance"].rounds


def test_an_exported_linear_adapter_names_no_class_of_transformers(finished):
    records = [json.loads(path.read_text()) for path in finished[0].glob("cells/*/adapter/adapad.json")]
    assert records
    assert {record["auto_class"] for record in records} == {None}


def test_the_report_shows_it(finished):
    folder, labels = finished
    report = build_report(folder, ReportInputs(title="bilinear", draws=50))
    html = report.files["report.html"].read_text()
    assert "How single components converge" in html
    assert all(f"{label}: " in html for label in labels)
    assert "with a trained head" not in html
