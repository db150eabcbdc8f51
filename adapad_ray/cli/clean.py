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
    each: Annotated[bool, typer.Option("--list", help="Name every folder.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
) -> int:
    """Delete what sweeps have left and nobody needs: ended Ray sessions, unused checkpoints, second copies."""
    from adapad_ray.cli.output.terminal import print_line
    from adapad_ray.report.style.formatting import size
    from adapad_ray.upkeep.leftovers import find_leftovers, grouped, sessions_in_use
    from adapad_ray.wording import counted

    found = find_leftovers(storage, artifacts, downloads=downloads)
    lines = [(leftover.bytes, f"{leftover.path}  ({leftover.kind.one})") for leftover in found]
    for taken, line in lines if each else [(group.bytes, group.sentence) for group in grouped(found)]:
        print_line(f"{size(taken):>8}  {line}")
    if used := sessions_in_use():
        print_line(f"{counted(used, 'Ray cluster')} in use: kept")
    if not found:
        print_line("0 folders: there is nothing to delete")
        return DONE
    if yes:
        for leftover in found:
            leftover.delete()
    total = f"{counted(len(found), 'folder')}, {size(sum(leftover.bytes for leftover in found))}"
    names = "" if each else ", and adapad clean --list names them"
    print_line(f"{total}: deleted" if yes else f"{total}: nothing was deleted; adapad clean --yes deletes them{names}")
    return DONE
