"""Reading a finished sweep, and checking the places of a new one, needs no cluster, no search and no tracker."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        *("adapad_ray.sweep.export", "adapad_ray.sweep.manifest", "adapad_ray.sweep.observers"),
        *("adapad_ray.sweep.folder", "adapad_ray.sweep.spec_file", "adapad_ray.tracking.store"),
    ],
)
def test_a_finished_sweep_is_read_without_ray_optuna_and_mlflow(module):
    code = f"import sys, {module}; print({{'ray', 'optuna', 'mlflow', 'matplotlib', 'torch'}} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
