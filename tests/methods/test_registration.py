"""Methods are found by name: the package's own, and those of other packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapad_ray import methods
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.results import OF_ADAPTERS
from adapad_ray.testing import MethodCase

TABLE = Path(__file__).parents[2] / "docs" / "methods.md"
STRANGER = """
from adapad_ray.methods.lora import Lora

class Stranger(Lora):
    name = "{name}"
    summary = "from another package"
"""


@pytest.fixture
def package(tmp_path):
    """Installs a package with one module and one method into a folder of its own."""

    def install(name):
        (tmp_path / f"strange_{name}.py").write_text(STRANGER.format(name=name))
        metadata = tmp_path / f"strange_{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strange_{name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[adapad_ray.methods]\n{name} = strange_{name}:Stranger\n")
        return tmp_path

    return install


def test_an_installed_package_brings_its_method_whichever_is_imported_first(package):
    folder = package("stranger")
    for first in ("strange_stranger", "adapad_ray.methods"):
        code = f"import {first}; from adapad_ray.cli import app; app(['list', 'methods'])"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        assert lines["stranger"] == "from another package"
        assert lines.keys() == METHODS.keys() | {"stranger"}


def test_a_name_that_is_taken_is_refused(package, monkeypatch):
    monkeypatch.syspath_prepend(package("lora"))
    with pytest.raises(BadRequestError, match=r"strange_lora:Stranger has the name 'lora', which is taken"):
        methods.__getattr__("METHODS")


def test_the_table_of_methods_has_a_row_for_every_method():
    rows = [line.split("|")[1].strip() for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    assert [f"`{method.name}`" for method in methods.BUILT_IN if f"`{method.name}`" not in rows] == []


def test_the_settings_of_adapters_act_only_where_there_is_a_budget():
    assert tuple(methods.MethodConfig.model_fields) == OF_ADAPTERS
    identity = MethodCase("adapad", 896).identity()
    assert identity.acting_config == identity.config
    reference = identity.model_copy(update={"budget": None, "config": {"lora_alpha": 2.0, "dropout": 0.0, "other": 1}})
    assert reference.acting_config == {"other": 1}
