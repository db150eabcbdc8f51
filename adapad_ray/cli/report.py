"""`adapad report`."""

from __future__ import annotations

from adapad_ray.cli.arguments import FolderArgument
from adapad_ray.cli.exit_codes import DONE, command


@command
def report(folder: FolderArgument) -> int:
    """Rebuild the figures and the report from a sweep's finished cells."""
    from adapad_ray.storage import fetched_folder

    with fetched_folder(folder) as sweep:
        # Only now, because these imports take seconds.
        from adapad_ray.cli.output.console import Console
        from adapad_ray.report.page import PAGE, build_report
        from adapad_ray.sweep.manifest import Manifest

        manifest = Manifest.load(sweep.path)
        built = build_report(sweep.path, manifest.report_inputs())
        sweep.save()
    console = Console()
    console.report(built, sweep.location)
    console.gaps(manifest.gaps)
    console.links({"report": sweep.within(PAGE)})
    return DONE
