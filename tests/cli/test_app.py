"""The command starts fast, and every subcommand has a help text."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from adapad_ray.cli import app

SLOW = ("torch", "ray", "mlflow", "optuna", "transformers", "pandas", "matplotlib")


def test_the_command_imports_no_slow_library_before_a_subcommand_runs():
    program = f"import sys, adapad_ray.cli; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["init", "sweep", "submit", "plan", "report", "export", "compress", "list", "clean"])
def test_a_subcommand_has_a_help_text(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    command = next(command for command in app.registered_commands if command.name == name)
    assert command.callback is not None and command.callback.__doc__
    first = command.callback.__doc__.split(".")[0]
    assert first.split()[0] in result.output


def test_the_version_is_that_of_the_package():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output == f"{version('adapad-ray')}\n"


def test_a_shell_completes_the_names_of_subcommands():
    environment = {"_ADAPAD_COMPLETE": "complete_bash", "COMP_WORDS": "adapad ev", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], env=environment, prog_name="adapad")
    assert result.output.split() == ["evaluate"]
