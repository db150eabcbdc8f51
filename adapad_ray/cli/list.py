"""`adapad list`."""

from __future__ import annotations

from typing import Annotated

import typer

from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.errors import BadRequestError


@command
def list_entries(what: Annotated[str, typer.Argument(metavar="methods|tasks|models")]) -> int:
    """List the methods, tasks or models that can be used, one line each."""
    from adapad_ray.cli.output.terminal import print_line

    entries = _entries(what)
    width = max(map(len, entries))
    for name, summary in entries.items():
        print_line(f"{name:<{width}}  {summary}")
    return DONE


def _entries(what: str) -> dict[str, str]:
    """Name → summary."""
    if what == "methods":
        from adapad_ray.methods import METHODS

        return {name: method.summary for name, method in METHODS.items()}
    if what == "tasks":
        from adapad_ray.tasks import list_tasks

        return list_tasks()
    if what == "models":
        from adapad_ray.models import list_models

        return list_models()
    raise BadRequestError(f"adapad list takes methods, tasks or models, not {what!r}")
