"""The check that is meant for a GPU, with tiny shapes on a CPU: a typo must not show on the card first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import recovery, shares
from benchmarks.gpu.scale import TINY

ROOT = Path(__file__).parents[2]


def test_every_method_and_every_step_time_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    command = ["bash", str(ROOT / "benchmarks/gpu/check.sh"), "--tiny", "--out", str(out), "methods", "step_times"]
    command += ["packs", "curve"]
    ended = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sections = json.loads(out.read_text())["sections"]
    assert all(row["repeats"] == "bitwise" for row in sections["methods"])
    assert {"PEFT LoRA", "LoRA", "AdaPaD, 2 lanes"} <= sections["step_times"][0].keys()
    assert all(float(row["of PEFT"]) > 0 for row in sections["curve"])
    assert all(float(row["gain"]) > 0 and float(row["of LoRA's step"]) > 0 for row in sections["packs"])


def test_a_section_that_fails_is_named_and_fails_the_check(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--tiny", "--out", str(tmp_path / "x.json"), "shares"]
    ended = subprocess.run([*command, "--model", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "shares: " in ended.stderr


@pytest.mark.xdist_group("clusters")
@pytest.mark.usefixtures("cluster")
class TestOnRay:
    """Sections that start workers."""

    def test_recovery_passes(self) -> None:
        assert [row for row in recovery.measure(TINY, None) if "error" in row] == []

    def test_a_sweep_of_four_cells_and_the_head_finishes(self) -> None:
        (row,) = shares.measure(TINY, None)
        assert row.get("error") is None
        assert row["cells"] == 5
