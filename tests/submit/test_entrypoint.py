"""The entry point of a job checks the node's Python before it starts the sweep."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adapad_ray.submit import entrypoint, package


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ({"python": [99, 0], "packages": []}, "but adapad-ray needs 99.0 or newer"),
        (
            {"python": [3, 11], "packages": ["no-such-thing>=1", "numpy>=999"]},
            "lacks no-such-thing>=1, numpy>=999 (not ",
        ),
    ],
)
def test_a_python_that_cannot_run_the_package_is_reported(requirements, message, tmp_path):
    (tmp_path / "adapad-job.json").write_text(json.dumps(requirements | {"submitted_from": "3.11"}))
    done = subprocess.run([sys.executable, entrypoint.__file__, "x.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("adapad: the cluster")


def test_this_python_can_run_the_package():
    assert entrypoint.find_problem(json.loads(json.dumps(package._requirements()))) == ""
