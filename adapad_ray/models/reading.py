"""Reading a user's model with transformers: nothing on the console, and one-line errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError

from adapad_ray.assets import ASSETS
from adapad_ray.errors import BadRequestError


def accepted_sources() -> str:
    """Return what a model may be given as, for error messages."""
    names = [asset.name for asset in ASSETS if asset.kind == "model"]
    return f"a folder, a Hub name or a packaged name ({', '.join(names)})"


@contextmanager
def reading_model(source: str) -> Iterator[None]:
    """Silence transformers while the block reads a model, and turn its errors into one line.

    Raises:
        BadRequestError: transformers, safetensors or the Hub could not read the model, or a package is missing.
    """
    with quiet_transformers():
        try:
            yield
        except BadRequestError:
            raise
        except ImportError as error:
            raise BadRequestError(
                f"model {source!r} needs a package that is not installed: {_first_line(error)}"
            ) from error
        except (OSError, ValueError, KeyError, RecursionError, SafetensorError) as error:
            raise BadRequestError(
                f"model {source!r} could not be loaded ({_first_line(error)}): pass {accepted_sources()}"
            ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars, reports and warnings of transformers while the block runs, then restore the settings."""
    verbosity = transformers.logging.get_verbosity()
    bars, hub_bars = transformers.logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
