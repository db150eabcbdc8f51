"""`adapad init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import user_path
from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.errors import BadRequestError
from adapad_ray.files import check_data_file, write_text


@command
def init(
    data: Annotated[str, typer.Argument(metavar="FILE", help="Your data: CSV, TSV, JSON Lines or Parquet.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A packaged name, a Hub name or a folder; default: minilm-l6, or smollm2-135m for conversations."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column of texts; default: guessed.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of labels; default: guessed.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=user_path, help="The file to write; default: the data's name with .yaml."),
    ] = None,
) -> int:
    """Write a first sweep file for your data, with comments. Trains nothing."""
    target = to or Path(f"{Path(data).stem}.yaml")
    if target.exists():
        raise BadRequestError(f"{target} exists: delete it, or choose another name with --to")
    check_data_file(data, "train")
    from adapad_ray.cli.output.tables import machine_takes
    from adapad_ray.cli.output.terminal import print_line
    from adapad_ray.draft import draft_spec

    draft = draft_spec(data, model, str(target), text=text, label=label)
    write_text(target, draft.content)
    print_line(f"{target}: {draft.sentence}")
    print_line(machine_takes(draft.estimate))
    print_line(f"Read it, then run: adapad sweep {target}")
    return DONE
