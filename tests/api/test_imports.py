"""`import adapad_ray` is quick, and a function imports no more than it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import adapad_ray as ar


def modules_after(code: str, names: set[str]) -> set[str]:
    """Those of the modules that a new process has imported after the code."""
    code = f"import sys, adapad_ray as ar; {code}; print(*({names!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_imports_nothing_slow():
    slow = {"torch", "transformers", "ray", "mlflow", "optuna", "pandas", "numpy", "pydantic"}
    assert modules_after("dir(ar), ar.sweep", slow) == set()


def test_training_and_using_an_adapter_need_no_ray_optuna_and_mlflow():
    assert modules_after("ar.train, ar.attach, ar.predict, ar.compress", {"ray", "optuna", "mlflow"}) == set()


def test_the_functions_are_listed_and_a_wrong_name_is_an_attribute_error():
    listed = {"attach", "compress", "load_sweep", "plan", "predict", "sweep", "train", "__version__"}
    assert set(dir(ar)) == set(ar.__all__) == listed
    assert all(callable(getattr(ar, name)) for name in listed - {"__version__"})
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = ar.trian


def test_the_package_of_sweeps_is_a_package_and_a_function():
    import adapad_ray.sweep.run as run
    from adapad_ray.sweep import manifest

    assert ar.sweep.run is run and ar.sweep.manifest is manifest and callable(ar.sweep)
