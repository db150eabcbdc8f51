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
FolderArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="A sweep's folder or URL, as `adapad sweep` printed it.")
]


@app.command()
def sweep(
    spec: SpecArgument,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="The sweep's folder or URL; default: <storage>/<name>.")] = None,
) -> None:
    """Run a sweep, or finish it: computes the cells that are missing, then draws the curve."""
    from adapad_ray.cli.commands import run_sweep

    raise typer.Exit(run_sweep(spec, overrides or [], out))


@app.command()
def submit(
    spec: SpecArgument,
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(help="The cluster's job server; default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."),
    ] = None,
    shared: Annotated[
        list[Path] | None, typer.Option(help="A folder that every node has under this path; may be given repeatedly.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0.0, help="CPUs for the entry point, beside those of cells.")] = 0.0,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs for the entry point, beside those of cells.")] = 0.0,
    wait: Annotated[bool, typer.Option(help="Show the job's log until it ends.")] = True,
) -> None:
    """Run a sweep as a job of a Ray cluster elsewhere. It goes on when this machine goes away."""
    from adapad_ray.cli.commands import submit_sweep

    raise typer.Exit(submit_sweep(spec, overrides or [], address, shared or [], cpus, gpus, wait))


@app.command()
def plan(
    spec: SpecArgument,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    link_gbps: Annotated[float, typer.Option(help="Rate of the link between workers, in Gbit/s.")] = 10.0,
) -> None:
    """Say what a sweep would compute: cells, exact parameters, gaps, cost. Trains nothing."""
    from adapad_ray.cli.commands import show_plan

    raise typer.Exit(show_plan(spec, overrides or [], json, link_gbps))


@app.command()
def report(folder: FolderArgument) -> None:
    """Rebuild the figures and the report from a sweep's finished cells."""
    from adapad_ray.cli.commands import show_report

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
    from adapad_ray.cli.commands import export_adapter

    raise typer.Exit(export_adapter(folder, method, budget, to, prefix, seed))


@app.command()
def compress(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of a LoRA adapter in the PEFT format.")],
    to: Annotated[Path, typer.Option(help="Folder to create.")],
    keep_ratio: Annotated[float | None, typer.Option(help="Share of all singular values to keep.")] = None,
    keep_energy: Annotated[float | None, typer.Option(help="Share of the updates' energy Σσ² to keep.")] = None,
    budget: Annotated[str | None, typer.Option(help="Adapter parameters, as 40k, or ranks, as '144 ranks'.")] = None,
    cut: Annotated[str, typer.Option(help="global, local (same share of energy per module) or uniform.")] = "global",
) -> None:
    """Cut any LoRA adapter to its largest singular values (PARA). Needs neither data nor the base model."""
    from adapad_ray.cli.commands import compress_adapter

    raise typer.Exit(compress_adapter(adapter, to, keep_ratio, keep_energy, budget, cut))


@app.command("list")
def list_what(what: Annotated[str, typer.Argument(metavar="methods|tasks|models")]) -> None:
    """List what there is, one line each."""
    from adapad_ray.cli.commands import show_list

    raise typer.Exit(show_list(what))
