"""MLflow: the only package that imports mlflow."""

from adapad_ray.tracking.store import tracking_uri
from adapad_ray.tracking.tracker import Tracker

__all__ = ["Tracker", "tracking_uri"]
