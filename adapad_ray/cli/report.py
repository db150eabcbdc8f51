"""`adapad report`."""

from __future__ import annotations

from adapad_ray.cli.arguments import FolderArgument
from adapad_ray.cli.exit_codes import DONE, command


@command
def report(folder: FolderArgument) -> int:
    """Rebuild the figures and the report from a sweep's finished cells."""
    from adapad_ray.storage import fetched_folder
    from adapad_ray.cli.console import Console
    from adapad_ray.sweep.manifest import rebuild_report

    with fetched_folder(folder) as place:
        paths = rebuild_report(place.path)
        place.save()
    console = Console()
    console.curve(paths.table, paths.metric)
    for verdict in paths.verdicts:
        console.say(verdict)
    console.say(paths.recommendation.sentence)
    console.links({"report": place.within(paths.html.name)})
    return DONE
