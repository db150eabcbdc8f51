"""The entry point of a job checks the node's Python before it starts the sweep."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adapad_ray.submit import entrypoint, package


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        ({"python": [99, 0], "requirements": []}, "but adapad-ray needs 99.0 or newer"),
        (
            {"python": [3, 11], "requirements": ["no-such-thing>=1", "numpy>=999"]},
            "lacks no-such-thing>=1, numpy>=999 (not ",
        ),
    ],
)
def test_a_python_that_cannot_run_the_package_is_reported(needed, sentence, tmp_path):
    (tmp_path / "adapad-job.json").write_text(json.dumps(needed | {"submitted_from": "3.11"}))
    done = subprocess.run([sys.executable, entrypoint.__file__, "x.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.startswith("adapad: the cluster")


def test_this_python_can_run_the_package():
    assert entrypoint.complaint(json.loads(json.dumps(package._requirements()))) == ""
