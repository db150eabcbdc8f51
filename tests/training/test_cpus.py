"""How many CPUs a process may use, on systems that bind processes to CPUs and on others."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from adapad_ray.training.cpus import usable_cpus


def test_they_are_those_that_the_process_is_bound_to():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no processes")
    assert usable_cpus() == len(os.sched_getaffinity(0))
    command = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from adapad_ray.training.cpus import usable_cpus; print(usable_cpus(), 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "1 False\n"


def test_they_are_all_where_the_system_does_not_bind(monkeypatch):
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    assert usable_cpus() == psutil.cpu_count()
