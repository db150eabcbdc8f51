"""MLflow: the only package that imports mlflow."""

from adapad_ray.tracking.tracker import (
    CELL,
    KILLED,
    PARENT,
    POINTS_PER_SERIES,
    REASON,
    REPORT,
    SWEEP,
    Tracker,
    tracking_uri,
)

__all__ = [
    "CELL",
    "KILLED",
    "PARENT",
    "POINTS_PER_SERIES",
    "REASON",
    "REPORT",
    "SWEEP",
    "Tracker",
    "tracking_uri",
]
