"""`adapad submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import OverridesArgument, SpecArgument, user_path
from adapad_ray.cli.exit_codes import DONE, FAILED, INTERRUPTED, command


@command
def submit(
    path: SpecArgument,
    overrides: OverridesArgument = None,
    address: Annotated[
        str | None,
        typer.Option(help="The cluster's job server; default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."),
    ] = None,
    shared: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", parser=user_path, help="A folder that every node has under this path; can be repeated."
        ),
    ] = None,
    cpus: Annotated[
        float, typer.Option(min=0.0, help="CPUs for the entry point, in addition to those of cells.")
    ] = 0.0,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs for the entry point, in addition to those of cells.")
    ] = 0.0,
    wait: Annotated[bool, typer.Option(help="Show the job's log until it ends.")] = True,
) -> int:
    """Run a sweep as a job of a remote Ray cluster. The job continues if this machine disconnects."""
    from adapad_ray.cli.output.terminal import print_line, terminal
    from adapad_ray.submit.job_server import JobServer
    from adapad_ray.submit.package import Request, packed

    with packed(Request(path, tuple(overrides or ()), tuple(folder.absolute() for folder in shared or ()))) as sweep:
        server = JobServer(address)
        if server.open_to_anyone:
            print_line(
                f"Anyone who can reach {server.address} can run code there: start its nodes with RAY_AUTH_MODE=token."
            )
        job = server.submit(sweep, cpus=cpus, gpus=gpus)
    show_log = f"ray job logs --follow --address {server.address} {job}"
    print_line(f"job {job}\n{show_log}\nray job stop --address {server.address} {job}")
    if not wait:
        return DONE
    console = terminal()
    try:
        end = server.follow(job, lambda text: console.out(text, end="", highlight=False))
    except KeyboardInterrupt:
        print_line(f"\nadapad: the job continues without this terminal: {show_log}")
        return INTERRUPTED
    except ConnectionError as error:
        print_line(f"adapad: {error}; the job may still be running: {show_log}")
        return FAILED
    if end.status == "SUCCEEDED":
        return DONE
    print_line(f"adapad: job {job} {end.status.lower()}: {end.message}")
    return end.exit_code or FAILED
