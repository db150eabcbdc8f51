"""`adapad plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from adapad_ray.cli.arguments import OverridesArgument, SpecArgument
from adapad_ray.cli.exit_codes import DONE, command


@command
def plan(
    path: SpecArgument,
    overrides: OverridesArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    link_gbps: Annotated[float, typer.Option(help="Rate of the link between workers, in Gbit/s.")] = 10.0,
) -> int:
    """Show what a sweep would compute: cells, exact parameters, gaps, cost. Trains nothing."""
    import dataclasses
    import json

    from adapad_ray.sweep.folder import check_data_files
    from adapad_ray.sweep.spec_file import parse_spec, read_content

    content = read_content(path, overrides or [])
    check_data_files(content, declared=True)
    # Only now, because these imports take seconds.
    from adapad_ray.cli.output.tables import OPTIONAL_IN_PLAN, estimate_tables, fitted
    from adapad_ray.cli.output.terminal import terminal
    from adapad_ray.cost.estimate import estimate_sweep

    estimate = estimate_sweep(parse_spec(content), link_gbps)
    console = terminal()
    if as_json:
        console.print_json(json.dumps(dataclasses.asdict(estimate)), ensure_ascii=True)  # in any encoding
        return DONE
    for part in estimate_tables(estimate):
        console.print(part if isinstance(part, str) else fitted(part, console, OPTIONAL_IN_PLAN))
    return DONE
