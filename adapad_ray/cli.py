"""The `adapad` command: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="How small can my adapter be, which method gets there, and where should its parameters go?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the file: training.epochs=2")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder, as `adapad sweep` printed it.")]


@app.command()
def sweep(
    spec: SpecArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default: <storage>/<name>.")] = None,
) -> None:
    """Run a sweep, or finish it: computes the cells that are missing, then draws the curve."""
    from adapad_ray.sweep.commands import run_sweep

    raise typer.Exit(run_sweep(spec, overrides or [], out))


@app.command()
def plan(
    spec: SpecArgument,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a sweep would compute: cells, exact parameters, gaps, cost. Trains nothing."""
    from adapad_ray.sweep.commands import show_plan

    raise typer.Exit(show_plan(spec, overrides or [], json))


@app.command()
def report(folder: FolderArgument) -> None:
    """Rebuild the figures and the report from a sweep's finished cells."""
    from adapad_ray.sweep.commands import show_report

    raise typer.Exit(show_report(folder))


@app.command()
def export(
    folder: FolderArgument,
    method: Annotated[str, typer.Option(help="Label of the method, for instance lora/qv.")],
    budget: Annotated[str, typer.Option(help="Budget of the sweep, as a number of parameters.")],
    to: Annotated[Path, typer.Option(help="Folder to create.")],
    prefix: Annotated[int | None, typer.Option(help="At most this many components per module.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the seed that is best on validation.")] = None,
) -> None:
    """Copy one deployable PEFT adapter out of a finished sweep."""
    from adapad_ray.sweep.commands import export_adapter

    raise typer.Exit(export_adapter(folder, method, budget, to, prefix, seed))


@app.command("list")
def list_what(what: Annotated[str, typer.Argument(metavar="methods|tasks|models")]) -> None:
    """List what there is, one line each."""
    from adapad_ray.sweep.commands import show_list

    raise typer.Exit(show_list(what))
