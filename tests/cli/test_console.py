"""What a sweep prints about its data."""

import io

import rich.console

from adapad_ray.cli.output.console import Console
from adapad_ray.distributed import GroupRetired
from adapad_ray.report.inputs import Gap, ReportInputs, StoppedTrial
from adapad_ray.report.page import build_report
from adapad_ray.sweep.observers import SweepOutcome, SweepState
from adapad_ray.sweep.planning.cells import Cell
from adapad_ray.tasks import SplitSize
from tests.report.factory import SweepFactory


def test_the_rows_of_every_split_and_class_are_one_line():
    out = io.StringIO()
    console = Console(rich.console.Console(file=out, width=200))
    console.data_read(
        {
            "train": SplitSize(70, {"[red]": 60, "01": 10}, available=700),
            "validation": SplitSize(10, {"[red]": 9, "01": 1}, available=10, carved=True),
            "test": SplitSize(20),
        }
    )
    assert out.getvalue() == (
        "Data: train 70 of 700 rows ([red] 60, 01 10); validation 10 rows ([red] 9, 01 1); test 20 rows; "
        "validation carved from the training data.\n"
    )


def printed(show):
    out = io.StringIO()
    show(Console(rich.console.Console(file=out, width=300)))
    return out.getvalue()


def test_one_cell_is_not_written_like_several():
    assert printed(lambda console: console.nothing_to_compute(1)) == "The only cell is finished: nothing to compute.\n"
    assert printed(lambda console: console.nothing_to_compute(2)) == "All 2 cells are finished: nothing to compute.\n"
    summary = printed(lambda console: console.summary(SweepOutcome(1, 0, [], None)))
    assert summary == "\n1 cell computed, 0 reused, 0 failed.\n"


def test_the_ways_in_which_cells_have_ended_add_up_to_all_of_them():
    stopped = [StoppedTrial("lora", None, 0, {}, step, 100, 0.5, 0.5, 1.0) for step in (20, 40)]
    outcome = SweepOutcome(10, 4, [], None, stopped=stopped, trials=6)
    assert printed(lambda console: console.summary(outcome)) == (
        "\n10 cells computed, 4 reused, 0 failed, 2 stopped early: 16 cells in all.\n"
    )


def test_a_trial_is_judged_by_its_validation_loss_and_a_cell_of_the_curve_by_its_metric(tmp_path):
    factory = SweepFactory(tmp_path, items=50)

    def shown(result, loss):
        final = result.final.model_copy(update={"validation_loss": loss})
        cell, lines = Cell(result.identity), io.StringIO()
        console = Console(rich.console.Console(file=lines, width=200))
        console.computing_started(SweepState(), 1, 1)
        console.cell_finished(cell, result.model_copy(update={"points": (final,)}), 1)
        return lines.getvalue().splitlines()[-1]

    assert shown(factory.cell("lora", 82_944, 0, 0.7, stage="tune"), 0.61234).startswith(
        "tune lora 82,944 seed 0: validation loss 0.6123, "
    )
    assert ": validation accuracy 0." in shown(factory.cell("lora", 82_944, 0, 0.7), 0.61234)


def test_the_recommended_row_is_marked_and_the_line_that_exports_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    factory = SweepFactory(tmp_path / "runs" / "s", items=2000)
    for seed in range(3):
        factory.cell("lora", 82_944, seed, 0.70, adapter=True)
        factory.cell("adapad", 165_888, seed, 0.80, prefixes={2: 0.8, 1: 0.6}, adapter=True)
    report = build_report(factory.folder, ReportInputs(title="s", delta=0.03, draws=300))
    text = printed(lambda console: console.report(report, str(factory.folder)))
    marked = [line for line in text.splitlines() if line.lstrip().startswith("→")]
    assert marked[0].split()[1:6] == ["adapad", "cut", "to", "2", "165,888"]
    assert [line for line in text.splitlines() if "cut to 1" in line] == []
    assert "This exports it:\n\nadapad export runs/s --recommended --to s-adapad-165888-prefix-2\n" in text
    assert report.recommendation.next_step in text
    assert "2 prefixes: smaller adapters, each the first components of a trained one" in text


def test_the_result_names_the_gaps_with_their_reasons():
    gaps = [Gap("lora", 500, "budget 500 is below one component"), Gap("cp", 1_000, "too few [modules]")]
    assert printed(lambda console: console.summary(SweepOutcome(2, 0, [], None, gaps))) == (
        "lora at 500 cannot exist: budget 500 is below one component\n"
        "cp at 1,000 cannot exist: too few [modules]\n"
        "\n2 cells computed, 0 reused, 0 failed.\n"
    )


def test_a_group_that_cannot_be_used_is_named_with_its_reason():
    retired = GroupRetired(2, "set-up failed: NoAcceleratorError: torch sees no GPU on node-7")
    assert printed(lambda console: console.group_retired(retired)) == (
        "worker group 2 is not used any more: set-up failed: NoAcceleratorError: torch sees no GPU on node-7\n"
    )


def test_the_dashboard_has_a_line_where_there_is_one():
    assert "Ray's dashboard  http://127.0.0.1:8265\n" in printed(
        lambda console: console.computing_started(SweepState(), 4, 2, "http://127.0.0.1:8265")
    )
    assert "dashboard" not in printed(lambda console: console.computing_started(SweepState(), 4, 2))


def test_files_and_addresses_are_short_and_lead_where_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "runs" / "report.html"
    report.parent.mkdir()
    report.touch()
    out = io.StringIO()
    console = Console(rich.console.Console(file=out, width=80, force_terminal=True, color_system="standard"))
    console.links(
        {"report": str(report), "MLflow": "mlflow ui", "bucket": "s3://b/runs", "runs": "http://127.0.0.1/#/1"}
    )
    console.computing_ended()
    lines = out.getvalue().splitlines()
    assert f";{report.as_uri()}\x1b\\runs/report.html\x1b" in lines[0]
    assert lines[1:3] == ["MLflow  mlflow ui", "bucket  s3://b/runs"]
    assert ";http://127.0.0.1/#/1\x1b\\http://127.0.0.1/#/1" in lines[3]
