"""Best values at the edge of what was tried."""

from adapad_ray.report.edges import best_of, edges_of


def test_a_best_value_at_an_edge_is_named_with_the_side():
    trials = [(0.1, {"rate": 1e-3, "rank": 4}), (0.2, {"rate": 2e-3, "rank": 2}), (0.3, {"rate": 5e-3, "rank": 3})]
    assert edges_of(trials) == ["the best rate, 0.005, is the largest of those tried; higher ones may be better"]


def test_a_best_value_inside_is_no_edge():
    assert edges_of([(0.1, {"rate": 1e-3}), (0.3, {"rate": 2e-3}), (0.2, {"rate": 5e-3})]) == []


def test_two_values_and_words_have_no_edge():
    assert edges_of([(0.1, {"rate": 1e-3}), (0.3, {"rate": 2e-3})]) == []
    assert edges_of([(0.1, {"cut": "a"}), (0.3, {"cut": "b"}), (0.2, {"cut": "c"})]) == []
    assert edges_of([]) == []


def test_a_tie_is_decided_as_the_tuner_decides_it():
    """By the smaller learning rate, then by the order of the points, which a name elsewhere cannot tell."""
    tied = [(0.3, {"learning_rate": rate, "rank": rank}) for rate, rank in ((3e-3, 2), (1e-3, 3), (1e-3, 4), (2e-3, 5))]
    assert best_of(tied) == {"learning_rate": 1e-3, "rank": 3}
    assert edges_of(tied) == ["the best learning_rate, 0.001, is the smallest of those tried; lower ones may be better"]
    assert best_of([(0.3, {"rank": 3}), (0.3, {"rank": 2})]) == {"rank": 3}
