"""adapad-ray: how small can an adapter be, which method gets there, and where should its parameters go?

`import adapad_ray as ar` gives the functions of `adapad_ray.api`, each imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapad_ray.api.attach import attach
    from adapad_ray.api.compression import compress
    from adapad_ray.api.loaded_sweep import load_sweep
    from adapad_ray.api.prediction import predict
    from adapad_ray.api.sweeps import plan
    from adapad_ray.api.train import train

__version__ = "0.1.0"

_API = {
    "attach": "attach",
    "compress": "compression",
    "load_sweep": "loaded_sweep",
    "plan": "sweeps",
    "predict": "prediction",
    "train": "train",
}
"""Function → its module in `api`. `sweep` is missing: the package of that name can be called."""

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
    return sorted(__all__)
