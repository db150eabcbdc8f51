"""`adapad sweep`."""

from __future__ import annotations

from typing import Annotated

import typer

from adapad_ray.cli.arguments import OverridesArgument, SpecArgument
from adapad_ray.cli.exit_codes import DONE, FAILED, INTERRUPTED, command


@command
def sweep(
    path: SpecArgument,
    overrides: OverridesArgument = None,
    out: Annotated[str | None, typer.Option(help="The sweep's folder or URL; default: <storage>/<name>.")] = None,
) -> int:
    """Run a sweep, or finish it: compute the missing cells, then draw the curve."""
    from adapad_ray.sweep.folder import launch_folder
    from adapad_ray.sweep.spec_file import parse_spec, read_content

    content = read_content(path, overrides or [])
    with launch_folder(content, out) as folder:
        # Only now, because these imports take seconds, and loading a model may take minutes.
        spec = parse_spec(content)
        from adapad_ray.cli.output.console import Console
        from adapad_ray.cli.output.terminal import print_error
        from adapad_ray.report.page import PAGE
        from adapad_ray.sweep.executor import unused_gpus
        from adapad_ray.sweep.observers import OutOfTimeError
        from adapad_ray.sweep.run import Sweep
        from adapad_ray.tracking.links import PAGE as MLFLOW_PAGE

        unused = unused_gpus(spec)
        if unused is not None:
            print_error(unused)
        console = Console()
        launch = Sweep(spec, folder, [console])
        for warning in launch.warnings:
            print_error(f"warning: {warning}")
        try:
            outcome = launch.run()
        except OutOfTimeError as error:
            print_error(
                f"{error}; finished cells are kept: run the same command again to continue, or "
                f"`adapad report {folder.location}` to draw what there is"
            )
            return INTERRUPTED
    links = {"results": folder.location, **outcome.links, "MLflow links": folder.within(MLFLOW_PAGE)}
    if outcome.report is not None:
        console.report(outcome.report, folder.location)
        links = {"report": folder.within(PAGE), "figure": folder.within("curve.png")} | links
    console.summary(outcome)
    console.links(links)
    return FAILED if outcome.failed else DONE
