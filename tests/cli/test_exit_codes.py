"""Expected errors are one line on stderr, and each kind has its exit code."""

import pytest
import typer

from adapad_ray.cli.exit_codes import command
from adapad_ray.errors import BadRequestError, StorageError, WorkersLostError

KEPT = "finished cells are kept: run the same command again to continue"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadRequestError("no such model"), 2, "adapad: no such model\n"),
        (StorageError("the store is away"), 1, f"adapad: the store is away; {KEPT}\n"),
        (WorkersLostError("no worker group is left"), 1, f"adapad: no worker group is left; {KEPT}\n"),
        (KeyboardInterrupt(), 130, f"adapad: interrupted; {KEPT}\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_expected_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    @command
    def fails() -> int:
        raise error

    with pytest.raises(typer.Exit) as ended:
        fails()
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == line
