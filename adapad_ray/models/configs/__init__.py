"""Sizes of models that papers use, so that `adapad plan` can count them where the Hub is out of reach.

One folder for each, by its name on the Hub. `README.md` beside this file says where the numbers come from.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def list_configs() -> list[str]:
    """Return the Hub names of the models that are described here."""
    return sorted(str(path.parent.relative_to(_FOLDER)) for path in _FOLDER.glob("*/*/config.json"))


def find_config(name: str) -> Path | None:
    """Return the folder with the `config.json` of a model of the Hub, or None where it is not described here."""
    return _FOLDER / name if name in list_configs() else None
