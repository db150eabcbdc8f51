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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plan missing.yaml", "sweep file missing.yaml cannot be read: No such file or directory"),
        ("init missing.csv", "the train file 'missing.csv' does not exist: pass the path of a file"),
        ("report missing", "missing holds no sweep (manifest.yaml is missing)"),
        ("export missing --recommended --to x", "missing holds no sweep (manifest.yaml is missing)"),
        ("predict missing rows.csv", "adapter missing is not a folder"),
        ("evaluate . rows.csv", "the given file 'rows.csv' does not exist"),
        ("compress missing --to x --keep-ratio 0.5", "adapter missing is not a folder"),
    ],
)
def test_what_does_not_exist_is_said_before_the_imports_that_take_seconds(arguments, message, tmp_path):
    program = (
        "import sys\nfrom adapad_ray.cli import app\n"
        f"try: app({arguments.split()})\n"
        "except SystemExit as end: print(end.code, {'torch', 'pandas', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert message in done.stderr and done.stdout == "2 set()\n"
