"""What is evaluated and exported of a trained cell."""

import pytest

from adapad_ray.testing import COST_PER_RANK, MethodCase


@pytest.mark.parametrize(("stage", "prefixes"), [("curve", [None, 2, 1]), ("search", [None]), ("tune", [None])])
def test_prefixes_are_evaluated_in_the_curve_stage_alone(stage, prefixes, tmp_path):
    case = MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 3, "local_steps": 5})
    result = case.run(tmp_path, stage=stage)
    assert [point.prefix for point in result.points] == prefixes
    assert (tmp_path / "adapter").exists() == (stage != "tune")
