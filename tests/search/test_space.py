"""The quasi-random points of the tune stage."""

import math
from itertools import product

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.search.space import interpolated, number_of_points, parse_space, quasi_random_points

SPACE = {
    "learning_rate": {"log": [1e-4, 1e-2]},
    "growth_threshold": {"uniform": [0.5, 2]},
    "growth_interval": {"int": [1, 8]},
    "schedule": {"choice": ["linear", "cosine", None]},
}


def test_the_points_are_a_function_of_space_seed_and_number():
    assert quasi_random_points(SPACE, 6, seed=3) == quasi_random_points(SPACE, 6, seed=3)
    assert quasi_random_points(SPACE, 6, seed=3) != quasi_random_points(SPACE, 6, seed=4)


def test_a_longer_list_begins_with_the_shorter_one():
    assert quasi_random_points(SPACE, 11, seed=0)[:5] == quasi_random_points(SPACE, 5, seed=0)


def test_the_order_of_names_in_the_file_does_not_matter():
    assert quasi_random_points(dict(reversed(SPACE.items())), 5, seed=0) == quasi_random_points(SPACE, 5, seed=0)


def test_every_point_lies_in_the_space_and_has_four_digits():
    for point in quasi_random_points(SPACE, 32, seed=1):
        assert list(point) == list(SPACE)
        assert 1e-4 <= point["learning_rate"] <= 1e-2
        assert point["learning_rate"] == float(f"{point['learning_rate']:.4g}")
        assert 0.5 <= point["growth_threshold"] <= 2
        assert isinstance(point["growth_interval"], int) and 1 <= point["growth_interval"] <= 8
        assert point["schedule"] in ("linear", "cosine", None)


def test_sixteen_sobol_points_fill_sixteen_strata_of_the_logarithm():
    points = quasi_random_points({"rate": {"log": [1e-4, 1e-2]}}, 16, seed=7)
    strata = [math.floor((math.log10(point["rate"]) + 4) / 2 * 16) for point in points]
    assert sorted(strata) == list(range(16))


GRID = {"rate": {"choice": [1e-3, 3e-3, 9e-3]}, "warm": {"choice": [True, False]}, "steps": {"int": [1, 2]}}


@pytest.mark.parametrize("seed", range(5))
def test_each_point_of_a_finite_space_is_drawn_once(seed):
    points = quasi_random_points(GRID, 30, seed)
    assert sorted(map(str, points)) == sorted(
        str({"rate": rate, "warm": warm, "steps": steps})
        for rate, warm, steps in product([1e-3, 3e-3, 9e-3], [True, False], [1, 2])
    )
    assert quasi_random_points(GRID, 5, seed) == points[:5]


def test_choices_that_are_equal_but_not_the_same_are_different_points():
    assert len(quasi_random_points({"value": {"choice": [1, True]}}, 9, seed=0)) == 2


def test_a_space_with_real_numbers_has_no_number_of_points():
    assert number_of_points(parse_space(GRID)) == 12
    assert number_of_points(parse_space({**GRID, "decay": {"uniform": [0, 1]}})) is None


def test_rounding_never_leaves_the_range():
    space = {"rate": {"uniform": [0.123456, 0.123459]}}
    assert all(0.123456 <= point["rate"] <= 0.123459 for point in quasi_random_points(space, 8, seed=0))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "tune.space is empty"),
        ({"rate": [1, 2]}, r"tune.space.rate must have exactly one of log, uniform, int, choice but got \[1, 2\]"),
        ({"rate": {"log": [1, 2], "int": [1, 2]}}, "exactly one of"),
        ({"rate": {"logs": [1, 2]}}, "tune.space.rate.logs is not a kind of range: did you mean log"),
        ({"rate": {"log": [0, 1]}}, "tune.space.rate.log needs low > 0 but got 0"),
        ({"rate": {"uniform": [2, 1]}}, r"needs low < high but got \[2, 1\]"),
        ({"rate": {"uniform": [1]}}, r"two finite numbers \[low, high\] but got \[1\]"),
        ({"rate": {"uniform": [0, float("nan")]}}, "two finite numbers"),
        ({"rate": {"log": ["1e-4", 1]}}, "two finite numbers"),
        ({"rank": {"int": [1, 2.5]}}, "two whole numbers"),
        ({"mode": {"choice": []}}, "tune.space.mode.choice is empty"),
        ({"mode": {"choice": [[1]]}}, r"takes numbers, strings, booleans and null but got \[1\]"),
    ],
)
def test_a_space_that_is_wrong_is_refused_with_key_and_value(space, message):
    with pytest.raises(BadRequestError, match=message):
        quasi_random_points(space, 2, seed=0)


def test_a_point_between_two_is_interpolated_on_the_scale_of_its_range():
    space = parse_space(
        {"a": {"log": [1e-4, 1e-2]}, "b": {"uniform": [0, 1]}, "c": {"int": [1, 9]}, "d": {"choice": ["x", "y"]}}
    )
    low, high = {"a": 1e-4, "b": 0.0, "c": 1, "d": "x"}, {"a": 1e-2, "b": 1.0, "c": 9, "d": "y"}
    assert interpolated(space, low, high, 0.5) == {"a": 1e-3, "b": 0.5, "c": 5, "d": "y"}
    assert interpolated(space, low, high, 0.0) == low and interpolated(space, low, high, 1.0) == high


def test_a_choice_of_rates_is_interpolated_and_other_choices_are_not():
    space = parse_space(
        {
            "learning_rate": {"choice": [1.00001e-3, 3e-3, 1e-2]},
            "dropout": {"choice": [0.0, 0.1]},
            "r_max": {"choice": [1, 8]},
        }
    )
    low = {"learning_rate": 1e-2, "dropout": 0.0, "r_max": 1}
    high = {"learning_rate": 1.00001e-3, "dropout": 0.1, "r_max": 8}
    assert interpolated(space, low, high, 0.5) == {"learning_rate": 3.162e-3, "dropout": 0.1, "r_max": 8}
    assert interpolated(space, low, high, 0.25)["learning_rate"] == 5.623e-3
    assert interpolated(space, low, high, 0.0) == low and interpolated(space, low, high, 1.0) == high
    assert interpolated(space, low, low, 0.3) == low
