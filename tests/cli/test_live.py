"""The lines below the scrolling output fit every terminal, and the time left follows the passes that are done."""

import io

import pytest
import rich.console

from adapad_ray.cli.output.live import LiveLines
from adapad_ray.sweep.observers import SweepState, Work
from adapad_ray.wording import clock, duration

LONG = "adapad/with-a-word-of-its-own 1,327,104 seed 2"


class Clock:
    """Seconds that pass when the test says so."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock_():
    return Clock()


@pytest.fixture
def lines(clock_):
    """Twelve of 340 cells are finished, after 1,000 s; four run."""
    state = SweepState(mean_work=Work(100.0, 0.0))
    lines = LiveLines(state, 340, now=clock_)
    clock_.seconds = 40.0
    for n in range(4):
        state.cells[f"cell-{n}"] = None
        lines.progress(f"cell-{n}", f"{LONG}{n}", "search", 0, 100, 0)
    clock_.seconds = 1040.0
    for n in range(12):
        lines.end(f"ended-{n}")
    for n in range(4):
        lines.progress(f"cell-{n}", "", "search", 45, 100, 0)
    lines.best = "best validation exact_match 0.812: adapad/with-a-word-of-its-own at 1,327,104"
    return lines


def drawn(lines, width):
    out = io.StringIO()
    console = rich.console.Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(lines, end="")
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_counts_and_time_are_never_cut_and_nothing_is_wider_than_the_terminal(lines, width):
    first, running, best = drawn(lines, width)
    assert first.startswith("search  ━─") and first.endswith("  12/340 cells  about 6.6 h left  17:20")
    assert all(len(line) <= width for line in (first, running, best))
    shown = running.count(" 45%")
    assert shown == {80: 1, 100: 1, 140: 2}[width] and running.endswith(f" · + {4 - shown} more")
    assert best.startswith("best validation exact_match 0.812")


@pytest.mark.parametrize(
    ("width", "first"),
    [(40, "search  12/340 cells  about 6.6 h left"), (24, "search  12/340 cells"), (12, "search  12/340 cells"[:12])],
)
def test_a_narrow_terminal_loses_the_bar_then_the_times(lines, width, first):
    assert drawn(lines, width)[0] == first


def test_what_runs_is_shown_in_short_where_not_even_one_name_fits(lines):
    assert drawn(lines, 24)[1] == f"{LONG[:23]}…"


def test_nothing_is_said_about_the_time_left_before_anything_is_known(clock_):
    lines = LiveLines(SweepState(mean_work=Work(10.0, 0.0)), 5, now=clock_)
    clock_.seconds = 7.0
    assert drawn(lines, 60) == [f"starting  {'─' * 33}  0/5 cells  0:07"]


def test_the_time_left_weighs_cells_by_their_passes_and_leaves_out_what_earlier_attempts_did(clock_):
    state = SweepState(work={"small": Work(90, 10), "large": Work(900, 10)}, mean_work=Work(500.0, 20.0))
    lines = LiveLines(state, 3, now=clock_)
    state.cells = {"small": None, "large": None}
    lines.progress("small", "small", "curve", 0, 10, 0)
    lines.progress("large", "large", "tune", 50, 100, 50)
    clock_.seconds = 10.0
    assert lines.phase == "tune + curve"
    lines.end("small")
    state.results["small"] = None
    lines.progress("large", "large", "tune", 60, 100, 50)
    # 90 + 10 + 90 passes took 10 s; 360 + 10 of the large cell are left, and a third cell of about 520.
    assert lines.seconds_left == pytest.approx(10 * 890 / 190)


def test_a_cell_that_is_trained_is_evaluated(lines):
    lines.progress("cell-0", "", "search", 100, 100, 0)
    assert f"{LONG}0 evaluating" in drawn(lines, 140)[1]


def test_times_are_words_and_clocks():
    assert [duration(seconds) for seconds in (8.44, 59, 720, 11_160)] == ["8.4 s", "59 s", "12 min", "3.1 h"]
    assert [clock(seconds) for seconds in (0.9, 187, 3765)] == ["0:00", "3:07", "1:02:45"]


def test_a_paused_cell_does_not_run_and_what_it_has_done_counts_until_it_is_stopped(clock_):
    """Two trials of 100 passes in 20 s: one pauses half way, the other ends."""
    state = SweepState(mean_work=Work(100.0, 0.0), cells=dict.fromkeys(["one", "other"]))
    lines = LiveLines(state, 2, now=clock_)
    for cell in ("one", "other"):
        lines.progress(cell, cell, "tune", 0, 100, 0)
    clock_.seconds = 15.0
    lines.progress("one", "one", "tune", 50, 100, 0)
    lines.progress("other", "other", "tune", 50, 100, 0)
    lines.pause("one")
    assert list(lines.running) == ["other"] and lines.seconds_left == pytest.approx(15.0)
    state.results["other"] = None
    lines.end("other")
    assert lines.seconds_left == pytest.approx(15.0 * 50 / 150)
    state.stopped["one"] = None
    lines.stop("one")
    assert (lines.ended, lines.seconds_left) == (2, 0.0)
