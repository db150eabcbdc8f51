"""What a launch needs besides model and data: its folder, MLflow's store and Ray."""

from __future__ import annotations

from adapad_ray.distributed import check_cluster
from adapad_ray.files import require_writable
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.lock import unwritable
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tracking import check_store


def check_surroundings(spec: SweepSpec, folder: WorkingFolder) -> None:
    """Checks within seconds that results can be stored and logged, and that Ray can be used.

    It comes before the model is loaded, which may take minutes.

    Raises:
        BadRequestError: one of them cannot be used.
    """
    if folder.store is not None:
        folder.store.check()
    else:
        try:
            require_writable(folder.path)
        except OSError as error:
            raise unwritable(folder.path, error) from error
    check_cluster()
    check_store(spec.tracking)
