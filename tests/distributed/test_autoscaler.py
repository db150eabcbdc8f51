"""Which nodes an autoscaler may start, from the file that it runs by."""

import yaml

from adapad_ray.distributed.autoscaler import nodes_in_file
from adapad_ray.distributed.capacity import Capacity, WorkerRequest


def test_the_node_types_of_an_autoscalers_file_count_with_its_limits(tmp_path):
    content = {
        "max_workers": 5,
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 16, "GPU": 1}, "min_workers": 0, "max_workers": 4, "labels": {"zone": "b"}},
            "cpu": {"resources": {"CPU": 8}},
            "unknown": {"resources": {}},
        },
    }
    path = tmp_path / "autoscaler.yaml"
    path.write_text(yaml.safe_dump(content))
    capacity = Capacity([], *nodes_in_file(path))
    assert capacity.groups(1, WorkerRequest(1, 1)) == 4
    assert capacity.groups(1, WorkerRequest(8)) == 4 * 2 + 1 * 1
    assert capacity.groups(1, WorkerRequest(8, labels={"zone": "b"})) == 4 * 2 + 1, "the label of the others is unknown"
