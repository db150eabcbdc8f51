"""Numbers as the report prints them."""

import math

import pytest

from adapad_ray.report.style import formatting


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (formatting.count, 41_472.4, "41,472"),
        (formatting.count, None, "–"),
        (formatting.share, 0.87654, "0.877"),
        (formatting.share, math.nan, "–"),
        (formatting.one_decimal, 2.25, "2.2"),
        (formatting.quantity, 3.1e12, "3.1 T"),
        (formatting.quantity, 999.4, "999"),
        (formatting.quantity, 999.6, "1 k"),
        (formatting.size, 4e8, "400 MB"),
        (formatting.setting, 0.00123456, "0.001235"),
        (formatting.setting, 41_472, "41,472"),
        (formatting.setting, True, "True"),
        (formatting.short_count, 22_713_216, "22.7M"),
        (formatting.short_count, 41_472, "41.5k"),
        (formatting.short_count, 576, "576"),
        (formatting.points, 0.01, "1 point"),
        (formatting.points, 0.0149, "1.5 points"),
        (formatting.margin, 0.01, "1 point"),
        (formatting.margin, 0.0125, "1.25 points"),
        (formatting.p_value, 0.0004, "< 0.001"),
        (formatting.p_value, 0.0132, "= 0.013"),
        (formatting.metric_name, "matthews_correlation", "matthews correlation"),
        (formatting.seed_count, 1, "1 seed"),
        (formatting.seed_count, 3, "3 seeds"),
    ],
)
def test_numbers_are_printed_as(function, value, expected):
    assert function(value) == expected
