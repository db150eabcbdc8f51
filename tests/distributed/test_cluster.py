"""How many worker groups fit into a cluster, asked of a real one."""

import subprocess
import sys

import pytest
import ray
import yaml

from adapad_ray.distributed import WorkerRequest, available_groups
from adapad_ray.distributed.cluster import cluster_capacity, misfit
from adapad_ray.errors import BadRequestError

pytestmark = pytest.mark.xdist_group("clusters")


def test_what_does_not_fit_the_cluster_is_refused_with_its_largest_node(cluster):
    assert available_groups(1, WorkerRequest(1)) == 2
    assert available_groups(2, WorkerRequest(0.5)) == 2
    assert available_groups(2, WorkerRequest(1)) == 1
    assert available_groups(1, WorkerRequest(0.25), most=3) == 3
    assert misfit(1, WorkerRequest(1)) is None
    with pytest.raises(BadRequestError, match=r"3 workers with 1 CPU and 0 GPUs each .* holds 2 such workers"):
        available_groups(3, WorkerRequest(1))
    with pytest.raises(BadRequestError, match="1 CPU and 1 GPU; the largest node has 2 CPUs, 0 GPUs and"):
        available_groups(1, WorkerRequest(1, 1))
    assert "1 GPU" in misfit(1, WorkerRequest(1, 1))


@pytest.fixture
def autoscaler(cluster, tmp_path):
    """A process with the command line of an autoscaler of this cluster, as `ray up` starts one on the head node."""
    path = tmp_path / "bootstrap.yaml"
    types = {"gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4}}
    path.write_text(yaml.safe_dump({"max_workers": 4, "available_node_types": types}))
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", "input()", f"--autoscaling-config={path}", f"--gcs-address={address}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield
        process.terminate()


def test_a_growing_cluster_counts_the_nodes_that_its_autoscaler_may_start(autoscaler):
    assert available_groups(1, WorkerRequest(1, 0.5)) == 8
    assert available_groups(1, WorkerRequest(1, 0.5), most=3) == 3
    with pytest.raises(BadRequestError, match="the largest node that it may have has 8 CPUs and 1 GPU"):
        available_groups(1, WorkerRequest(1, 2))


def test_an_autoscaler_of_kubernetes_is_trusted_with_the_number_of_groups_that_the_file_names(cluster, monkeypatch):
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --no-monitor --num-cpus=0")
    assert cluster_capacity().declared == []
    assert available_groups(1, WorkerRequest(1, 1), most=4) == 4
    with pytest.raises(BadRequestError, match=r"set resources\.max_groups to the groups"):
        available_groups(1, WorkerRequest(1, 1))


ONE_TASK = """
import os, psutil, ray
from adapad_ray.distributed import connect
with connect(num_cpus=6, object_store_memory=100_000_000):
    ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote())
    print(sum("ray::IDLE" in p.cmdline()[0] for p in psutil.Process().children(recursive=True) if p.cmdline()))
"""


def test_a_local_cluster_starts_no_worker_for_every_cpu_before_there_is_work():
    ended = subprocess.run([sys.executable, "-c", ONE_TASK], capture_output=True, text=True, timeout=120, check=True)

    assert 1 <= int(ended.stdout) <= 2  # Ray starts a second one besides that of the task
