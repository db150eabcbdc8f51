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
