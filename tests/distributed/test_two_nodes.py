"""Two nodes on one machine: objects travel from one node's store to the other's, and nothing changes."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("clusters")

HERE = Path(__file__).parent


def test_workers_on_two_nodes_give_the_adapter_of_one_worker_alone(tmp_path):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "two_nodes.py"), str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "status").read_text() == "done"
    assert not (tmp_path / "left").read_text(), "the pool leaves no actor on a cluster that goes on"
    assert len({(tmp_path / f"nodes.node-{rank}").read_text() for rank in range(4)}) == 2
    for name in ("predictions.safetensors", "adapter/adapter_model.safetensors", "prefix-1/adapter_model.safetensors"):
        assert filecmp.cmp(tmp_path / "nodes" / name, tmp_path / "alone" / name, shallow=False)
