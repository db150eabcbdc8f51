"""MLflow: the only package that imports mlflow."""

from adapad_ray.tracking.store import check_store, tracking_uri
from adapad_ray.tracking.tracker import Tracker

__all__ = ["Tracker", "check_store", "tracking_uri"]
