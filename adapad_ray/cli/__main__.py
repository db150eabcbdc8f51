"""`python -m adapad_ray.cli` is the `adapad` command."""

from adapad_ray.cli.app import app

app()
