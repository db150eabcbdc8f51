"""`adapad evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import AdapterArgument, BaseModelOption, RowsArgument
from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.files import check_adapter_folder, check_data_file
from adapad_ray.wording import counted


@command
def evaluate(
    adapter: AdapterArgument,
    file: RowsArgument,
    model: BaseModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Score an exported adapter on the rows of a file with right answers, by the metrics of its task."""
    check_adapter_folder(adapter)
    check_data_file(file, "given")
    from adapad_ray.cli.output.terminal import print_error, print_line
    from adapad_ray.deployment.prediction import load_exported

    loaded = load_exported(adapter, model)
    rows = loaded.read(file, answers=True)
    metrics = loaded.evaluate(rows, Path(file).parent)
    for warning in loaded.warnings:
        print_error(f"warning: {warning}")
    if as_json:
        print_line(json.dumps({**metrics, "rows": len(rows)}))
    else:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print_line(f"{scores}  ({counted(len(rows), 'row')})")
    return DONE
