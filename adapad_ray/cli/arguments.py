"""Arguments that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep's YAML file.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the file, as in training.epochs=2."),
]
FolderArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="The sweep's folder or URL, as `adapad sweep` printed it.")
]
AdapterArgument = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder that `adapad export` wrote.")]
RowsArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="CSV, TSV, JSON Lines or Parquet with the columns of the task.")
]
BaseModelOption = Annotated[str | None, typer.Option(help="The base model, if it is not where it was in training.")]
