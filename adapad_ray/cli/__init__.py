"""The `adapad` command: one module for each subcommand."""

from adapad_ray.cli.app import app

__all__ = ["app"]
