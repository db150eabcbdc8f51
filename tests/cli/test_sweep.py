"""`adapad sweep` checks its folder, Ray and MLflow before it loads anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from adapad_ray.cli import app
from tests.ports import free_port


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Launches a sweep whose model does not exist, with arguments; returns the code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of this process may have a cluster
    spec = {"model": "nowhere", "task": {"train": "nowhere.csv"}, "methods": {"lora": {}}, "budgets": [1000]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec))

    def launch(*arguments: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, ["sweep", "sweep.yaml", *arguments])
        assert {path.name for path in tmp_path.iterdir()} == {"sweep.yaml"}
        return result.exit_code, result.stderr.splitlines()

    return launch


def test_a_folder_that_cannot_be_written(launch):
    assert launch("--out", "/proc/nowhere/runs") == (
        2,
        ["adapad: output folder /proc/nowhere/runs cannot be written: No such file or directory"],
    )


def test_a_ray_cluster_that_is_gone(launch, monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, lines = launch()
    assert code == 2
    assert lines[0].startswith(f"adapad: no Ray cluster answers at '{address}' (Connection refused)")
    assert len(lines) == 1


def test_a_cache_that_cannot_be_written(launch, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("ADAPAD_CACHE", "/proc/nowhere")
    for packaged in ("model=minilm-l6", "task=rotten-tomatoes"):
        code, lines = launch(packaged)
        assert code == 2
        assert lines[0].startswith("adapad: the cache folder /proc/nowhere/assets cannot be written (No such file")
        assert len(lines) == 1


def test_a_tracking_server_that_is_down(launch, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    address = f"http://127.0.0.1:{free_port()}"
    code, lines = launch(f"tracking={address}")
    assert code == 2
    assert lines[0].startswith(f"adapad: MLflow's store {address} cannot be used (Connection refused)")
    assert len(lines) == 1


def test_the_checks_come_before_the_imports_that_take_seconds(launch, tmp_path):
    """A server that never answers is waited for, and on a busy machine torch would double the wait."""
    program = (
        "import sys\nfrom adapad_ray.cli import app\n"
        "try: app(['sweep', 'sweep.yaml', 'tracking=http://127.0.0.1:%d'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'pandas', 'mlflow', 'optuna'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program % free_port()],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
    )
    assert "cannot be used (Connection refused)" in done.stderr
    assert done.stdout == "2 set()\n"


def test_a_field_that_is_no_text_is_rejected_as_usual(launch):
    code, lines = launch("tracking=[1]")
    assert code == 2 and lines[0].startswith("adapad: tracking is [1]: ")
    code, lines = launch("storage={a: b}")
    assert code == 2 and lines[0].startswith("adapad: storage is {'a': 'b'}: ")
