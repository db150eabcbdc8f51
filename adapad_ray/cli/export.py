"""`adapad export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import FolderArgument
from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.wording import counted


@command
def export(
    folder: FolderArgument,
    method: Annotated[str, typer.Option(help="Label of the method in the sweep's file, as in lora/qv.")],
    budget: Annotated[str, typer.Option(help="Budget of the sweep: 10400, 10.4k.")],
    to: Annotated[Path, typer.Option(help="Folder to create.")],
    prefix: Annotated[int | None, typer.Option(help="At most this many components per module.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the seed that is best on validation.")] = None,
) -> int:
    """Copy one deployable PEFT adapter out of a finished sweep."""
    from adapad_ray.cli.terminal import print_error, print_line
    from adapad_ray.storage import fetched_folder
    from adapad_ray.sweep.export import export_adapter

    with fetched_folder(folder) as sweep:
        cell, point, missing = export_adapter(sweep.path, to, label=method, budget=budget, prefix=prefix, seed=seed)
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in point.validation.items())
    size = f"{point.parameters:,} adapter parameters on {counted(len(point.ranks), 'module')}"
    print_line(f"{to}: {size}, seed {cell.identity.seed}, validation {metrics}")
    if missing:
        is_are = "is" if missing == 1 else "are"
        choice = "" if seed is not None else ": another seed may turn out to be the best, so export again at the end"
        print_error(f"warning: {counted(missing, 'cell')} of this sweep {is_are} not finished{choice}")
    return DONE
