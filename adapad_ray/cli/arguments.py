"""Arguments that several subcommands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def user_path(text: str) -> Path:
    """Return the path with `~` expanded: the shell leaves it alone in `--to=~/adapter` and between quotes."""
    return Path(os.path.expanduser(text))


SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", parser=user_path, help="The sweep's YAML file.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file, as in training.epochs=2."),
]
FolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="DIR", parser=os.path.expanduser, help="The sweep's folder or URL, as `adapad sweep` printed it."
    ),
]
AdapterArgument = Annotated[
    Path, typer.Argument(metavar="ADAPTER", parser=user_path, help="Folder that `adapad export` wrote.")
]
ToOption = Annotated[Path, typer.Option(metavar="PATH", parser=user_path, help="Folder to create.")]
RowsArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", parser=os.path.expanduser, help="CSV, TSV, JSON Lines or Parquet with the columns of the task."
    ),
]
BaseModelOption = Annotated[str | None, typer.Option(help="The base model, if it is not where it was in training.")]
