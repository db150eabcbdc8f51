"""`adapad sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import OverridesArgument, SpecArgument
from adapad_ray.cli.exit_codes import DONE, FAILED, command


@command
def sweep(
    path: SpecArgument,
    overrides: OverridesArgument = None,
    out: Annotated[str | None, typer.Option(help="The sweep's folder or URL; default: <storage>/<name>.")] = None,
) -> int:
    """Run a sweep, or finish it: compute the missing cells, then draw the curve."""
    from adapad_ray.distributed import sigterm_as_interrupt
    from adapad_ray.storage import working_folder
    from adapad_ray.cli.console import Console
    from adapad_ray.sweep.run import Sweep, sweep_place
    from adapad_ray.sweep.spec_file import load_spec

    spec = load_spec(path, overrides or [])
    console = Console()
    with sigterm_as_interrupt(), working_folder(sweep_place(spec, out)) as place:
        outcome = Sweep(spec, place, console).run()
    if outcome.report is not None:
        console.curve(outcome.report.table, outcome.report.metric)
        console.say("")
        for verdict in outcome.report.verdicts:
            console.say(verdict)
        console.say(outcome.report.recommendation.sentence)
    console.failures(outcome.failed)
    console.say(f"\n{outcome.computed} cells computed, {outcome.reused} reused, {len(outcome.failed)} failed.")
    links: dict[str, str | Path] = {"results": place.location, **outcome.mlflow}
    if outcome.report is not None:
        files = {"report": outcome.report.html, "figure": outcome.report.curve_png}
        links = {**{name: place.within(file.name) for name, file in files.items()}, **links}
    console.links(links)
    return FAILED if outcome.failed else DONE
