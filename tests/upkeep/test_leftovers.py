"""`adapad clean` lists what nobody needs, and deletes it only when told to."""

import json
import os
import tempfile
import time
from pathlib import Path

import filelock
import psutil
import pytest
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.upkeep.leftovers import OLD_SECONDS, find_leftovers

ENDED = max(psutil.pids()) + 100_000
"""The id of no process."""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def folder(path, content="x" * 10):
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


def paths(**options):
    return {leftover.path for leftover in find_leftovers(Path("runs"), Path("mlartifacts"), **options)}


def test_sessions_of_ray_whose_processes_have_ended_are_left_over(temporary):
    ended = folder(temporary / "ray" / f"session_2026-01-01_00-00-00_000000_{ENDED}")
    folder(temporary / "ray" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}")
    (temporary / "ray" / "session_latest").symlink_to(ended)
    assert paths(downloads=False) == {ended}


def test_temporary_folders_are_left_over_when_nothing_changes_in_them(temporary):
    old, used = folder(temporary / "adapad-copy-a"), folder(temporary / "adapad-tune-b")
    folder(temporary / "other")
    for path in (old, old / "file", used):
        os.utime(path, (0, time.time() - OLD_SECONDS - 60))
    assert paths(downloads=False) == {old}


def sweep(labels):
    Path("runs/s").mkdir(parents=True)
    Manifest(title="s", labels=labels, gaps=[], failed=[], delta=0.01, mlflow="").save(Path("runs/s"))


def test_checkpoints_are_left_over_when_their_cells_are_finished_or_not_of_the_sweep(temporary):
    sweep({"running": "lora", "finished": "lora"})
    cells = Path("runs/s/cells")
    finished, gone = folder(cells / "finished" / "checkpoint"), folder(cells / "gone" / "checkpoint")
    folder(cells / "running" / "checkpoint")
    (cells / "finished" / "result.json").write_text("{}")
    assert paths(downloads=False) == {finished, gone}
    with filelock.FileLock("runs/s/.lock"):
        assert paths(downloads=False) == set(), "a launch is running"


def test_copies_of_adapters_are_left_over_when_they_equal_the_cells(temporary):
    sweep({})
    for cell, weights in (("same", "abc"), ("other", "abd")):
        copy = folder(Path("mlartifacts/s") / cell / "artifacts" / "adapter")
        (copy / "adapter_model.safetensors").write_text("abc")
        (copy.parent / "result.json").write_text(json.dumps({"id": cell}))
        folder(Path("runs/s/cells") / cell / "adapter")
        (Path("runs/s/cells") / cell / "adapter" / "adapter_model.safetensors").write_text(weights)
    assert paths(downloads=False) == {Path("mlartifacts/s/same/artifacts/adapter")}


def test_nothing_is_deleted_without_yes_and_downloads_only_when_named(temporary, tmp_path):
    download = folder(tmp_path / "cache" / "model-x", "x" * 2000)
    ended = folder(temporary / "ray" / f"session_2026-01-01_00-00-00_000000_{ENDED}")
    listed = CliRunner().invoke(app, ["clean", "--list"])
    assert str(ended) in listed.output and "1 folder, 10 B: nothing was deleted" in listed.output and ended.exists()
    deleted = CliRunner().invoke(app, ["clean", "--downloads", "--yes"])
    assert "2 folders, 2.01 kB: deleted" in deleted.output and not ended.exists() and not download.exists()
    assert "0 folders" in CliRunner().invoke(app, ["clean"]).output


def test_folders_of_one_kind_are_one_line_and_clusters_in_use_are_counted(temporary):
    for second in range(3):
        folder(temporary / "ray" / f"session_2026-01-01_00-00-0{second}_000000_{ENDED}")
    folder(temporary / "ray" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}")
    first, second, last = CliRunner().invoke(app, ["clean"]).output.splitlines()
    assert first == f"    30 B  3 Ray clusters that have ended, in {temporary / 'ray'}"
    assert second == "1 Ray cluster in use: kept"
    assert last.startswith("3 folders, 30 B: nothing was deleted; ") and last.endswith("--list names them")
