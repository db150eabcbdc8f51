"""`adapad report`."""

from __future__ import annotations

from adapad_ray.cli.arguments import FolderArgument
from adapad_ray.cli.exit_codes import DONE, command


@command
def report(folder: FolderArgument) -> int:
    """Rebuild the figures and the report from a sweep's finished cells."""
    from adapad_ray.cli.console import Console
    from adapad_ray.storage import fetched_folder
    from adapad_ray.sweep.manifest import rebuild_report

    with fetched_folder(folder) as sweep:
        paths = rebuild_report(sweep.path)
        sweep.save()
    console = Console()
    console.report(paths)
    console.links({"report": sweep.within(paths.html.name)})
    return DONE
