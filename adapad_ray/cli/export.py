"""`adapad export`."""

from __future__ import annotations

from typing import Annotated

import typer

from adapad_ray.cli.arguments import FolderArgument, ToOption
from adapad_ray.cli.exit_codes import BAD_REQUEST, DONE, command
from adapad_ray.errors import BadRequestError
from adapad_ray.wording import counted


@command
def export(
    folder: FolderArgument,
    to: ToOption,
    recommended: Annotated[bool, typer.Option("--recommended", help="The adapter that the report recommends.")] = False,
    method: Annotated[str | None, typer.Option(help="Label of the method in the sweep's file, as in lora/qv.")] = None,
    budget: Annotated[str | None, typer.Option(help="Budget of the sweep: 10400, 10.4k, 0.5% or '36 ranks'.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="A smaller model that was cut from it: components per module, or parameters.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the seed that is best on validation.")] = None,
    hub_name: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="NAME", help="Upload it too, as in you/my-adapter.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository of the Hub private.")] = False,
) -> int:
    """Copy one deployable PEFT adapter out of a finished sweep."""
    from adapad_ray.storage import fetched_folder

    if recommended != (method is None and budget is None and prefix is None and seed is None):
        raise BadRequestError("adapad export takes either --recommended or --method and --budget")
    if hub_name is not None:
        from adapad_ray.deployment.hub import check_login

        check_login(hub_name)
    with fetched_folder(folder) as sweep:
        # Only now, because these imports take seconds.
        from adapad_ray.cli.output.tables import available_table
        from adapad_ray.cli.output.terminal import print_error, print_line, terminal
        from adapad_ray.sweep.export import AdapterChoice, NotInSweepError, export_adapter, recommended_adapter

        if recommended:
            choice = recommended_adapter(sweep.path)
        elif method is None or budget is None:
            raise BadRequestError("adapad export takes --recommended, or both --method and --budget")
        else:
            choice = AdapterChoice(method, budget, prefix, seed)
        try:
            exported = export_adapter(sweep.path, to, choice)
        except NotInSweepError as error:
            print_error(f"{error}; it has:")
            terminal(stderr=True).print(available_table(error.available))
            return BAD_REQUEST
    print_line(exported.sentence)
    for warning in exported.warnings:
        print_error(f"warning: {warning}")
    if missing := exported.missing:
        is_are = "is" if missing == 1 else "are"
        choice_may_change = seed is None or recommended
        hint = ": another seed may turn out to be the best, so export again at the end" if choice_may_change else ""
        print_error(f"warning: {counted(missing, 'cell')} of this sweep {is_are} not finished{hint}")
    if hub_name is not None:
        from adapad_ray.deployment.hub import push_to_hub

        print_line(push_to_hub(to, hub_name, private=private))
    return DONE
