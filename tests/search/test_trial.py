"""A trial costs little: it is a process that only waits for its cell."""

import subprocess
import sys


def test_a_trial_imports_neither_optuna_nor_torch():
    code = "import sys, adapad_ray.search.trial; print({'optuna', 'torch', 'scipy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
