"""The check that is meant for a GPU, with tiny shapes on a CPU: a typo must not show on the card first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import check, curve, methods, packs, recovery, shares
from benchmarks.gpu.scale import TINY

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_the_script_runs_a_section_in_a_process_of_its_own_and_keeps_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    command = ["bash", str(ROOT / "benchmarks/gpu/check.sh"), "--tiny", "--out", str(out), "step_times"]
    ended = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    row = json.loads(out.read_text())["sections"]["step_times"][0]
    assert {"PEFT LoRA", "LoRA", "AdaPaD, 2 lanes"} <= row.keys()


def test_every_method_repeats_bitwise() -> None:
    rows = list(methods.measure(TINY, None))
    assert [row for row in rows if row.get("repeats") != "bitwise"] == []


def test_packs_and_whole_curves_are_timed() -> None:
    assert all(float(row["gain"]) > 0 and float(row["of LoRA's step"]) > 0 for row in packs.measure(TINY, None))
    assert all(float(row["of PEFT"]) > 0 for row in curve.measure(TINY, None))


def test_a_section_that_fails_is_named_and_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sections in ("SECTIONS", "CHECKED"):
        monkeypatch.setattr(check, sections, {"unwritten": 60})
    monkeypatch.setattr(sys, "argv", ["check", "--tiny", "--out", str(tmp_path / "x.json")])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="unwritten: ended with exit code 1"):
        check.main()


@pytest.mark.xdist_group("clusters")
@pytest.mark.usefixtures("cluster")
class TestOnRay:
    """Sections that start workers."""

    @pytest.mark.soak
    def test_recovery_passes(self) -> None:
        assert [row for row in recovery.measure(TINY, None) if "error" in row] == []

    def test_a_sweep_of_four_cells_and_the_head_finishes(self) -> None:
        (row,) = shares.measure(TINY, None)
        assert row.get("error") is None
        assert row["cells"] == 5
