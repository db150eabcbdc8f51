"""Only drawing imports matplotlib: a plan, an export or a search computes without it."""

import subprocess
import sys

import pytest


def imports_matplotlib(module):
    command = f"import sys, adapad_ray.report.{module}; sys.exit('matplotlib' in sys.modules)"
    return bool(subprocess.run([sys.executable, "-c", command]).returncode)


@pytest.mark.parametrize("module", ["sweep_results", "section"])
def test_data_and_the_base_of_sections_do_not_import_matplotlib(module):
    """`sweep_results` imports records, inputs, curves, statistics, differences, recommendation and searches."""
    assert not imports_matplotlib(module)


def test_drawing_imports_matplotlib():
    assert imports_matplotlib("style.drawing")
