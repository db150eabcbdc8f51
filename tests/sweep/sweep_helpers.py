"""What the tests of whole sweeps share."""

from typer.testing import CliRunner

from adapad_ray.cli import app


def adapad(*arguments: object) -> tuple[int, str]:
    """Runs the command in this process; its exit code and what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
