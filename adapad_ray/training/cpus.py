"""The CPUs of this machine that this process may use. Imports nothing slow."""

from __future__ import annotations

import psutil


def usable_cpus() -> int:
    """Their number: of those that it is bound to, where the system binds processes to CPUs, else of all."""
    process = psutil.Process()
    bound = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count()
    return bound or 1
