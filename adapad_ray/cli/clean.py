"""`adapad clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import user_path
from adapad_ray.cli.exit_codes import DONE, command


@command
def clean(
    storage: Annotated[Path, typer.Option(metavar="PATH", parser=user_path, help="Folder of sweeps.")] = Path("runs"),
    artifacts: Annotated[
        Path, typer.Option(metavar="PATH", parser=user_path, help="The folder of MLflow's artifacts.")
    ] = Path("mlartifacts"),
    downloads: Annotated[bool, typer.Option("--downloads", help="Also packaged models and data sets.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list what would be deleted.")] = False,
) -> int:
    """Delete what sweeps have left and nobody needs: ended Ray sessions, unused checkpoints, second copies."""
    from adapad_ray.cli.output.terminal import print_line
    from adapad_ray.report.style.formatting import size
    from adapad_ray.upkeep.leftovers import find_leftovers
    from adapad_ray.wording import counted

    found = find_leftovers(storage, artifacts, downloads=downloads)
    for leftover in found:
        print_line(f"{size(leftover.bytes):>8}  {leftover.path}  ({leftover.why})")
        if yes:
            leftover.delete()
    total = f"{counted(len(found), 'folder')}, {size(sum(leftover.bytes for leftover in found))}"
    print_line(f"{total}: deleted" if yes else f"{total}: nothing was deleted yet; adapad clean --yes deletes them")
    return DONE
