"""`adapad predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import AdapterArgument, BaseModelOption, RowsArgument, user_path
from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.files import check_adapter_folder, check_data_file


@command
def predict(
    adapter: AdapterArgument,
    file: RowsArgument,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=user_path,
            help="File to write: .csv, .tsv, .jsonl or .parquet. Default: CSV on stdout.",
        ),
    ] = None,
    model: BaseModelOption = None,
) -> int:
    """Predict the rows of a file with an exported adapter. A column of right answers is not needed."""
    check_adapter_folder(adapter)
    check_data_file(file, "given")
    from adapad_ray.cli.output.terminal import Output, print_error
    from adapad_ray.deployment.prediction import DIGITS, check_output, load_exported, write_predictions

    if to is not None:
        check_output(to)
    loaded = load_exported(adapter, model)
    predictions = loaded.predict(loaded.read(file, answers=False), Path(file).parent)
    for warning in loaded.warnings:
        print_error(f"warning: {warning}")
    if to is None:
        predictions.to_csv(Output(sys.stdout), index=False, float_format=DIGITS)
    else:
        write_predictions(predictions, to)
        print_error(f"{len(predictions):,} predictions in {to}")
    return DONE
