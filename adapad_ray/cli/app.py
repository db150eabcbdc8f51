"""Assembles the `adapad` command.

The modules of the subcommands import torch, Ray and MLflow only when a subcommand runs, so that `--help` is fast.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer

from adapad_ray.cli.clean import clean
from adapad_ray.cli.compress import compress
from adapad_ray.cli.evaluate import evaluate
from adapad_ray.cli.export import export
from adapad_ray.cli.init import init
from adapad_ray.cli.list import list_entries
from adapad_ray.cli.output.terminal import prepare_streams, print_line
from adapad_ray.cli.plan import plan
from adapad_ray.cli.predict import predict
from adapad_ray.cli.report import report
from adapad_ray.cli.submit import submit
from adapad_ray.cli.sweep import sweep


class _Command(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        return super().__call__(*args, **kwargs)


app = _Command(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(version("adapad-ray"))
        raise typer.Exit


@app.callback()
def _options(
    wanted: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """How small can my adapter be, which method gets there, and where should its parameters go?"""


app.command("init")(init)
app.command("sweep")(sweep)
app.command("submit")(submit)
app.command("plan")(plan)
app.command("report")(report)
app.command("export")(export)
app.command("predict")(predict)
app.command("evaluate")(evaluate)
app.command("compress")(compress)
app.command("list")(list_entries)
app.command("clean")(clean)
