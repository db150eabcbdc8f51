"""Reads JSON objects from files that may be damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapad_ray.errors import BadRequestError

LARGEST = 100_000_000
"""Largest file that is read, in bytes; the index of the largest model known here has 9,000,000."""


def read_object(path: Path, where: str, largest: int = LARGEST) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: of the file.
        where: what messages call the file, as in `config.json of model 'a'`.
        largest: most bytes that are read.

    Raises:
        BadRequestError: the file cannot be opened, is too large, or holds something else.
    """
    try:
        content = json.loads(_bytes(path, where, largest).decode("utf-8-sig"))
    except BadRequestError:
        raise
    except OSError as error:
        raise BadRequestError(f"{where} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise BadRequestError(f"{where} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:
        raise BadRequestError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequestError(f"{where} must hold one JSON object, not a {type(content).__name__}")
    return content


def _bytes(path: Path, where: str, largest: int) -> bytes:
    size = path.stat().st_size
    if size > largest:
        raise BadRequestError(f"{where} has {size:,} bytes, more than the {largest:,} that are read")
    return path.read_bytes()
