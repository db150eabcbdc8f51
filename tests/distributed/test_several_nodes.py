"""Several nodes on one machine: objects travel between their stores, and groups go where their request fits."""

import filecmp
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.soak]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "several_nodes.py"), str(folder)],
        # The cluster and its driver use the same token, whether this machine has one of its own or not.
        env={**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def found(folder):
    return json.loads((folder / "found.json").read_text())


def test_workers_on_two_nodes_give_the_adapter_of_one_worker_alone(folder, found):
    assert found["cell"]["status"] == "done"
    assert not found["cell"]["left"], "the pool leaves no actor on a cluster that goes on"
    assert len({(folder / f"nodes.node-{rank}").read_text() for rank in range(4)}) == 2
    for name in ("predictions.safetensors", "adapter/adapter_model.safetensors", "prefix-1/adapter_model.safetensors"):
        assert filecmp.cmp(folder / "nodes" / name, folder / "alone" / name, shallow=False)


def test_what_no_single_node_holds_is_refused_at_once_though_the_sum_would(found):
    sentence, seconds = found["gpus"]["refused"]
    assert (
        "no node of the cluster holds a worker with 1 CPU and 3 GPUs; the largest node has 2 CPUs, 2 GPUs" in sentence
    )
    assert seconds < 5
    assert found["gpus"]["groups"] == 3


def test_the_gpus_of_all_nodes_are_visible_before_a_sweep_joins_the_cluster(found):
    assert found["gpus"]["visible"] == [3, 3]


def test_a_group_on_a_broken_node_is_retired_alone_and_none_is_started_there_again(found):
    assert found["gpus"]["retired"] == ["set-up failed: OSError: the driver of this GPU is too old"]
    values = found["gpus"]["values"]
    assert len(values) == 5 and {value["node"] for value in values} == {found["gpus"]["large"]}
    assert all(len(value["gpus"]) == 1 for value in values)


def test_groups_without_work_give_their_gpus_back_and_are_started_again_for_the_next_jobs(found):
    assert found["gpus"]["seconds_until_gpus_are_free"] < 10
