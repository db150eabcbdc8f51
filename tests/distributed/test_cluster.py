"""How many worker groups fit into a cluster."""

import pytest

from adapad_ray.distributed import available_groups
from adapad_ray.errors import BadRequestError

pytestmark = pytest.mark.xdist_group("clusters")


def test_what_does_not_fit_the_cluster_is_refused_with_both_sides_of_the_sum(cluster):
    assert available_groups(1, 1, 0) == 2
    assert available_groups(2, 0.5, 0) == 2
    assert available_groups(2, 1, 0) == 1
    with pytest.raises(
        BadRequestError, match=r"3 workers with 1 CPU and 0 GPUs each does not fit .* 2 CPUs and 0 GPUs"
    ):
        available_groups(3, 1, 0)
    with pytest.raises(BadRequestError, match="1 GPUs"):
        available_groups(1, 1, 1)
