"""TensorBoard and Weights & Biases beside MLflow, each through its own package, which is optional.

A tracker is one file: `tensorboard.py`, `wandb.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adapad_ray.errors import BadRequestError

if TYPE_CHECKING:  # a sweep is checked before anything slow is imported
    from adapad_ray.tracking.cell_writer import CellWriter


def check_writers(*, tensorboard: bool, wandb: str | None) -> None:
    """Checks, before anything is loaded, that the packages of the writers that a sweep asks for are there.

    Raises:
        BadRequestError: one is missing, or nobody is logged in to Weights & Biases.
    """
    for sentence in missing_packages(tensorboard=tensorboard, wandb=wandb):
        raise BadRequestError(sentence)
    if wandb is not None:
        from adapad_ray.tracking.wandb import check_login

        check_login()


def missing_packages(*, tensorboard: bool, wandb: str | None) -> tuple[str, ...]:
    """One sentence for each package that a sweep asks for and that is not installed."""
    wanted = {"tensorboard": "tensorboard: true"} if tensorboard else {}
    wanted |= {} if wandb is None else {"wandb": f"wandb: {wandb}"}
    return tuple(
        f"`{field}` needs the package {package}, which is not installed: run `pip install {package}`, or remove it"
        for package, field in wanted.items()
        if find_spec(package) is None
    )


def open_writers(folder: Path, sweep: str, *, tensorboard: bool, wandb: str | None) -> Sequence[CellWriter]:
    """The writers that a sweep asks for; what they keep on disk is in the sweep's folder."""
    writers: list[CellWriter] = []
    if tensorboard:
        from adapad_ray.tracking.tensorboard import TensorBoard

        writers.append(TensorBoard(folder / "tensorboard"))
    if wandb is not None:
        from adapad_ray.tracking.wandb import WeightsAndBiases

        writers.append(WeightsAndBiases(folder, sweep, wandb))
    return writers
