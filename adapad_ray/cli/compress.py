"""`adapad compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapad_ray.cli.arguments import ToOption, user_path
from adapad_ray.cli.exit_codes import DONE, command
from adapad_ray.files import check_adapter_folder


@command
def compress(
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER", parser=user_path, help="Folder of a LoRA adapter in the PEFT format."),
    ],
    to: ToOption,
    keep_ratio: Annotated[float | None, typer.Option(help="Share of all singular values to keep.")] = None,
    keep_energy: Annotated[float | None, typer.Option(help="Share of the updates' energy Σσ² to keep.")] = None,
    budget: Annotated[str | None, typer.Option(help="Adapter parameters, as 40k, or ranks, as '144 ranks'.")] = None,
    cut: Annotated[str, typer.Option(help="global, local (same share of energy per module) or uniform.")] = "global",
) -> int:
    """Cut any LoRA adapter to its largest singular values (PARA). Needs neither data nor the base model."""
    check_adapter_folder(adapter)
    from adapad_ray.adapters.compression import compress_adapter
    from adapad_ray.cli.output.tables import compression_summary, compression_table
    from adapad_ray.cli.output.terminal import print_line, terminal
    from adapad_ray.deployment.compressed import complete_compressed

    report = compress_adapter(adapter, to, ratio=keep_ratio, energy=keep_energy, budget=budget, cut=cut)
    complete_compressed(adapter, to, report)
    for note in report.notes:
        print_line(f"Note: {note}.")
    terminal().print(compression_table(report))
    print_line(f"{to}: {compression_summary(report)}")
    return DONE
