"""`adapad sweep` checks its folder, Ray and MLflow before it loads anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from adapad_ray.cli import app
from tests.ports import free_port, page_server


@pytest.fixture
def launch(tmp_path, reviews, monkeypatch):
    """Launches a sweep whose model does not exist, with arguments; returns the code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of this process may have a cluster
    spec = {"model": "nowhere", "task": {"train": str(reviews)}, "methods": {"lora": {}}, "budgets": [1000]}
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


def test_a_tracker_whose_package_is_missing(launch, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("adapad_ray.tracking.writers.find_spec", lambda package: None)
    code, lines = launch("tensorboard=true")
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("adapad: `tensorboard: true` needs the package tensorboard, which is not installed")


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


@pytest.mark.parametrize(
    ("environment", "arguments", "reason"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:{dead}"}, [], "no Ray cluster answers at '127.0.0.1:{dead}' (Connection refused)"),
        ({"TMPDIR": "/proc/nowhere"}, [], "Ray cannot write to /proc/nowhere/ray (No such file or directory)"),
        ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, [], "RAY_ADDRESS 'http://127.0.0.1:8265' is not the address of a"),
        ({}, ["tracking=http://127.0.0.1:{dead}"], "store http://127.0.0.1:{dead} cannot be used (Connection refused)"),
        ({}, ["tracking=sqlite:////proc/nowhere/x.db"], "store sqlite:////proc/nowhere/x.db cannot be used (No such"),
        ({}, ["tracking=http://127.0.0.1:{other}"], "store http://127.0.0.1:{other} cannot be used (its reply is not"),
        (
            {"ADAPAD_CACHE": "/proc/nowhere"},
            ["model=minilm-l6"],
            "/proc/nowhere/assets cannot be written (No such file",
        ),
        ({"ADAPAD_CACHE": "/dev/null"}, ["model=minilm-l6"], "/dev/null/assets cannot be written (Not a directory)"),
        ({"ADAPAD_CACHE": "{loop}"}, ["model=minilm-l6"], "{loop}/assets cannot be written (Too many levels of"),
    ],
)
def test_a_service_that_is_dead_unwritable_or_another_is_said_and_nothing_is_started(
    launch, monkeypatch, tmp_path_factory, environment, arguments, reason
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    loop = tmp_path_factory.mktemp("links") / "loop"
    loop.symlink_to("loop")
    before = psutil.Process().children(recursive=True)
    with page_server() as other:
        places = {"dead": free_port(), "other": other, "loop": loop}
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(**places))
        code, lines = launch(*(argument.format(**places) for argument in arguments))
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("adapad: ") and reason.format(**places) in lines[0]
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.parametrize(
    ("environment", "argument", "reason"),
    [
        ({"TMPDIR": "{full}"}, "seeds=[0]", "Ray cannot write to {full}/ray (No space left on device)"),
        ({}, "tracking=sqlite:///{full}/x.db", "store sqlite:///{full}/x.db cannot be used (No space left on device)"),
        ({"ADAPAD_CACHE": "{full}"}, "model=minilm-l6", "{full}/assets cannot be written (No space left on device)"),
    ],
)
def test_a_service_whose_disk_is_full_is_said(launch, tmp_path, environment, argument, reason, request):
    full = tempfile.mkdtemp(dir="/tmp")  # Ray's sockets need a short name
    request.addfinalizer(lambda: shutil.rmtree(full))
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.run([*mount, full, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount in a namespace of its own")
    command = [*mount, full, sys.executable, "-c", "from adapad_ray.cli import app; app()", "sweep", "sweep.yaml"]
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    variables |= {name: value.format(full=full) for name, value in environment.items()}
    done = subprocess.run(
        [*command, argument.format(full=full)], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert reason.format(full=full) in done.stderr
