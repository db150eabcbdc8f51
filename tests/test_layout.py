"""The package's shape: imports point down, folders stay small, files stay short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import adapad_ray

PACKAGE = Path(adapad_ray.__file__).parent
REPOSITORY = PACKAGE.parent
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})
MOST_MODULES = 15
LONGEST_FILE = 400


def test_no_module_imports_upward() -> None:
    """The layers are listed in `pyproject.toml`, highest first; import-linter checks every import against them."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Imports point down KEPT" in done.stdout


def test_every_folder_of_the_package_is_a_layer() -> None:
    """A new folder without a place among the layers would be checked by nothing."""
    import tomllib

    (layers,) = [
        contract["layers"]
        for contract in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract["containers"] == ["adapad_ray"]
    ]
    listed = {name.strip() for layer in layers for name in layer.split("|")}
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert listed == present - {"__init__"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_no_folder_has_more_than_fifteen_modules(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, sorted(modules)


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
