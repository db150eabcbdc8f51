"""The `adapad` command."""

from adapad_ray.cli.app import app

__all__ = ["app"]
