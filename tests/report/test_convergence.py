"""Convergence of single components, on curves whose rates and rounds are known."""

import numpy as np
import pytest

from adapad_ray.report.convergence import convergence_sentences, convergence_table, label_convergences
from tests.report.convergence_cells import ADAPAD, ConvergenceCells, curve


@pytest.fixture
def cells(tmp_path):
    return ConvergenceCells(tmp_path / "sweep")


def test_rounds_are_counted_until_the_error_stays_below(cells):
    wanders = [1.0, 1e-4, 0.5, *curve(0.1, 7)]  # below 1e-3 in round 2, and for good in round 3 + 4
    one = label_convergences([cells.add("adapad/a", [curve(0.1, 10), wanders], config=ADAPAD)], cells.folder)[0]
    assert [float(c.rounds.iloc[0]) for c in one.components] == [4.0, 7.0]
    assert one.rounds == 7.0
    assert one.steps_of(7.0) == 70, "ten local steps a round: five of each of two lanes"


def test_a_component_that_never_converges_has_no_round(cells):
    found = label_convergences([cells.add("adapad/a", [curve(0.5, 10), curve(0.99, 10)], config=ADAPAD)], cells.folder)
    table = convergence_table(found)
    assert table["rounds_to_1e-3"].tolist()[0] == 10.0 and np.isnan(table["rounds_to_1e-3"].tolist()[1])
    (sentence,) = convergence_sentences(found)
    assert "component 2 of 2 did not get below 0.001 within 10 rounds" in sentence and "9.0e-01" in sentence


def test_the_contraction_is_the_slowest_seeds(cells):
    results = [
        cells.add("adapad/a", [curve(rate, 40)], seed=seed, config=ADAPAD) for seed, rate in enumerate((0.4, 0.6, 0.5))
    ]
    (component,) = label_convergences(results, cells.folder)[0].components
    assert component.rate == pytest.approx(0.6)
    assert component.rounds.tolist() == [8, 14, 10]


def test_the_bound_starts_when_it_begins_to_hold(cells):
    late = curve(0.5, 60, start=21, plateau=2.9)
    results = [cells.add("adapad/a", [curve(0.5, 60), late], config=ADAPAD)]
    first, second = label_convergences(results, cells.folder)[0].components
    assert first.warm_up == 1
    s = second.warm_up
    rounds = np.arange(1, 61)

    def holds(s):
        past = rounds[rounds >= s] - s
        above = np.array(late)[rounds >= s] > 1e-12
        return bool((np.array(late)[rounds >= s] <= 6 * (past + 2) * 0.5 ** (past + 1.0))[above].all())

    assert s is not None and s > 2 and holds(s) and not holds(s - 1)
    bound = second.bound()
    assert bound.index[0] == s and bound.iloc[0] == pytest.approx(6 * 2 * 0.5)


def test_the_bound_applies_to_synchronous_parallel_deflation_only(cells):
    results = [
        cells.add("adapad/a", [curve(0.5, 40)], config=ADAPAD),
        cells.add("adapad/stale", [curve(0.5, 40)], config={**ADAPAD, "staleness": 1}),
        cells.add("sequential", [curve(0.5, 40)], config={"more_first": 0.0}),
    ]
    found = label_convergences(results, cells.folder)
    assert [one.components[0].bound() is not None for one in found] == [True, False, False]


def test_labels_of_equal_work_are_compared_by_rounds(cells):
    results = [
        cells.add("adapad/a", [curve(0.5, 40), curve(0.5, 40)], config=ADAPAD, lane_passes=400),
        cells.add("sequential", [curve(0.5, 80), curve(0.5, 40)], config={"more_first": 0.0}, lane_passes=400),
    ]
    sentences = convergence_sentences(label_convergences(results, cells.folder))
    assert sentences[0].startswith(
        "adapad/a: every component is below 0.001 after 10.0 rounds (100 of 400 local steps)"
    )
    assert sentences[1].startswith("sequential: every component is below 0.001 after 50.0 rounds (250 of 400 local")
    assert (
        "adapad/a has every component below 0.001 in the fewest rounds (10.0); sequential takes 5.0 times as many"
        in (sentences[2])
    )


def test_advance_learning_is_compared_at_equal_rounds(cells):
    on, off = curve(0.5, 40), [2 * error for error in curve(0.5, 40)]
    results = [
        cells.add("adapad/on", [on], config=ADAPAD),
        cells.add("adapad/off", [off], config={**ADAPAD, "advance_learning": False}),
        cells.add("adapad/stale", [on], config={**ADAPAD, "staleness": 1}),
    ]
    (sentence,) = [s for s in convergence_sentences(label_convergences(results, cells.folder)) if "Advance" in s]
    assert "adapad/on against adapad/off" in sentence and "0.50 for component 1" in sentence
    assert "10.0 rounds instead of 11.0" in sentence
