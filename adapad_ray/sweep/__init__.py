"""Sweeps: the file, its cells, the stages of a run, the folder.

The package can be called: `adapad_ray.sweep(spec)` is a function of the Python API, and a package has the name of its
folder.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, spec: Any, out: Any = None, *, progress: bool = True, **overrides: Any) -> Any:
        """Runs a sweep on Ray, or finishes it: see `adapad_ray.api.sweeps.sweep`."""
        return import_module("adapad_ray.api.sweeps").sweep(spec, out, progress=progress, **overrides)


sys.modules[__name__].__class__ = _CallableModule
