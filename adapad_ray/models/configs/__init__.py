"""Sizes of models that papers use, so that `adapad plan` can count their parameters without the Hub.

One folder per model, by its name on the Hub. `README.md` in this folder gives the source of each number.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def list_configs() -> list[str]:
    """Return the Hub names of the models in this folder."""
    return sorted(str(path.parent.relative_to(_FOLDER)) for path in _FOLDER.glob("*/*/config.json"))


def find_config(name: str) -> Path | None:
    """Return the folder with a Hub model's `config.json`, or None if there is none here."""
    return _FOLDER / name if name in list_configs() else None
