"""How many groups fit: counted node by node, without Ray."""

import math

import pytest

from adapad_ray.distributed.capacity import MOST_GROUPS, Capacity, NodeType, WorkerRequest
from adapad_ray.errors import BadRequestError

CPU_NODE = NodeType({"CPU": 8.0, "memory": 32e9})
T4 = NodeType({"CPU": 4.0, "GPU": 1.0, "memory": 16e9, "accelerator_type:T4": 1.0}, count=3)
A100 = NodeType({"CPU": 16.0, "GPU": 4.0, "memory": 200e9, "accelerator_type:A100": 1.0}, labels={"zone": "b"})
MIXED = Capacity([CPU_NODE, T4, A100])


@pytest.mark.parametrize(
    ("request_", "groups"),
    [
        (WorkerRequest(1), 8 + 3 * 4 + 16),
        (WorkerRequest(1, 1), 3 + 4),
        (WorkerRequest(2, 0.25), 3 * 2 + 8),
        (WorkerRequest(0.1, 0.3), 3 * 3 + 13),
        (WorkerRequest(1, 2), 2),
        (WorkerRequest(1, 1, memory=20 * 10**9), 4),
        (WorkerRequest(1, 1, accelerator_type="T4"), 3),
        (WorkerRequest(1, labels={"zone": "b"}), 16),
        (WorkerRequest(1, labels={"zone": "!b"}), 8 + 3 * 4 + 16),
    ],
    ids=str,
)
def test_a_worker_counts_where_one_node_holds_all_that_it_needs(request_, groups):
    assert MIXED.groups(1, request_) == groups


def test_the_workers_of_a_group_may_be_on_several_nodes():
    assert MIXED.groups(2, WorkerRequest(1, 1)) == 3
    assert MIXED.groups(7, WorkerRequest(1, 1)) == 1


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            WorkerRequest(1, 8),
            "no node of the cluster holds a worker with 1 CPU and 8 GPUs; the largest node has 16 CPUs, 4 GPUs (A100) "
            "and 200 GB: lower resources.cpus_per_worker or gpus_per_worker, or choose other nodes",
        ),
        (
            WorkerRequest(9, 1, accelerator_type="T4"),
            "a worker with 9 CPUs and 1 GPU of type T4; the largest node has 16",
        ),
        (WorkerRequest(1, labels={"zone": "c"}), "a worker with 1 CPU and 0 GPUs on a node with zone=c; the largest"),
        (WorkerRequest(1, memory=300 * 10**9), "1 CPU, 0 GPUs and 300 GB; the largest node has 16 CPUs"),
    ],
    ids=str,
)
def test_what_no_node_holds_is_refused_with_the_largest_node(request_, sentence):
    """The sum over all nodes would hold each of them but the last two."""
    with pytest.raises(BadRequestError) as error:
        MIXED.groups(1, request_)
    assert sentence in str(error.value)


def test_more_workers_than_the_cluster_holds_are_refused():
    with pytest.raises(BadRequestError, match=r"a group of 8 workers with 1 CPU and 1 GPU each .* holds 7 such"):
        MIXED.groups(8, WorkerRequest(1, 1))


def test_an_autoscalers_nodes_count_up_to_its_limits_and_not_as_one_large_node():
    head = NodeType({"CPU": 0.0})
    gpu = NodeType({"CPU": 4.0, "GPU": 1.0}, count=10, declared=True)
    growing = Capacity([head], [gpu], most_nodes=6)
    assert growing.groups(1, WorkerRequest(1, 0.5)) == 12
    assert growing.groups(3, WorkerRequest(4, 1, accelerator_type="T4")) == 2, "it may be that type"
    with pytest.raises(BadRequestError, match="2 GPUs; the largest node that it may have has 4 CPUs and 1 GPU"):
        growing.groups(1, WorkerRequest(1, 2))
    endless = Capacity([head], [NodeType({"CPU": cpus}, count=math.inf, declared=True) for cpus in (2.0, 4.0)])
    assert endless.groups(1, WorkerRequest(1)) == MOST_GROUPS


def test_a_worker_without_a_cpu_is_refused():
    with pytest.raises(BadRequestError, match="cpus > 0"):
        WorkerRequest(0)
