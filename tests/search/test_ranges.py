"""Points that stand for a whole search space."""

from __future__ import annotations

from itertools import product

from adapad_ray.search.ranges import points_over, values_of
from adapad_ray.search.space import parse_space

SPACE = parse_space(
    {
        "rate": {"log": [1e-4, 1e-2]},
        "share": {"uniform": [0.25, 8]},
        "steps": {"int": [1, 9]},
        "many": {"int": [1, 10**6]},
        "kind": {"choice": ["a", None, 3, "b"]},
    }
)


def test_ends_and_values_between_them_stand_for_a_range():
    for name, low, high in [("rate", 1e-4, 1e-2), ("share", 0.25, 8.0)]:
        values = values_of(name, SPACE)
        assert values[:2] == [low, high]
        assert all(low < value < high and value != round(value) for value in values[2:]) and len(values) > 2


def test_short_ranges_and_choices_are_tried_in_full_and_long_ranges_in_part():
    assert sorted(values_of("steps", SPACE)) == list(range(1, 10))
    assert set(values_of("kind", SPACE)) == {"a", None, 3, "b"}
    many = values_of("many", SPACE)
    assert many[:2] == [1, 10**6] and len(many) == len(set(many)) == 64
    assert values_of("n", parse_space({"n": {"int": [3, 4]}})) == [3, 4]


def test_every_value_and_every_pair_of_ends_is_in_some_point():
    points = list(points_over(SPACE))
    for name in SPACE:
        assert {point[name] for point in points} == set(values_of(name, SPACE))
        assert all(SPACE[name]._contains(SPACE[name].to_internal_repr(point[name])) for point in points)
    for one, other in product(SPACE, SPACE):
        if one < other:
            ends = product(values_of(one, SPACE)[:2], values_of(other, SPACE)[:2])
            assert set(ends) <= {(point[one], point[other]) for point in points}
