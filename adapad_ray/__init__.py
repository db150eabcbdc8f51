"""adapad-ray: how small can an adapter be, which method gets there, and where should its parameters go?

`import adapad_ray as ar` gives the functions of `adapad_ray.api`, each imported when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = {
    "attach": "attach",
    "compress": "compression",
    "load_sweep": "loaded_sweep",
    "plan": "sweeps",
    "predict": "prediction",
    "train": "train",
}
"""Function → its module in `api`. `sweep` is not here: see `adapad_ray.sweep`."""

__all__ = ["__version__", "attach", "compress", "load_sweep", "plan", "predict", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name == "sweep":
        return import_module("adapad_ray.sweep")
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(import_module(f"adapad_ray.api.{_API[name]}"), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
