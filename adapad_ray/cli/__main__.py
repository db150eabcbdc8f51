"""Runs the `adapad` command as `python -m adapad_ray.cli`."""

from adapad_ray.cli.app import app

app()
