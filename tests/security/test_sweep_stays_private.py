"""A sweep on this machine listens on localhost only and does not leak secrets of its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.xdist_group("clusters")

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-password",
    "HF_TOKEN": "hf_canarytoken",
    "RAY_AUTH_TOKEN": "ca9a57".ljust(48, "0"),
    "AWS_SECRET_ACCESS_KEY": "canary-aws-key",
}
RENDEZVOUS = "ray::RayTrainWorker"
"""Prefix of Ray Train's workers; torch's rendezvous store binds to every interface (`docs/operations.md`)."""


def listening(process: psutil.Process) -> dict[tuple[str, int], str]:
    """(address, port) → name of the process, for a sweep's process and all its children, the cluster included."""
    sockets = {}
    for other in (process, *process.children(recursive=True)):
        try:
            for socket in other.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    sockets[socket.laddr.ip, socket.laddr.port] = other.cmdline()[0]
        except (psutil.Error, IndexError):
            continue
    return sockets


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[tuple[str, int], str]]]:
    """Folder, output and listening sockets of a sweep with secrets in its environment."""
    folder = tmp_path_factory.mktemp("private")
    content = {
        "model": "linear",
        "task": {"type": "bilinear", "in_features": 8, "out_features": 8, "spectrum": [1.0, 0.5], "examples": 32},
        "methods": {"adapad": {"local_steps": 2}},
        "budgets": ["2 ranks"],
        "seeds": [0],
        "reference": False,
        "training": {"epochs": 60, "optimizer": "sgd", "learning_rate": 0.05},
        "resources": {"workers": 2, "cpus_per_worker": 0.5},
        "storage": str(folder / "runs"),
        "tracking": f"sqlite:///{folder}/mlflow.db",
    }
    (folder / "private.yaml").write_text(yaml.safe_dump(content))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as session:  # short: sockets lie below
        environment = {**os.environ, **SECRETS, "RAY_TMPDIR": session, "RAY_AUTH_MODE": "token"}
        process = psutil.Popen(
            [sys.executable, "-c", "from adapad_ray.cli import app; app()", "sweep", str(folder / "private.yaml")],
            env=environment,
            cwd=folder,
            stdout=(folder / "output").open("w"),
            stderr=subprocess.STDOUT,
        )
        sockets: dict[tuple[str, int], str] = {}
        try:
            while process.poll() is None:
                sockets |= listening(process)
                try:
                    process.wait(0.7)
                except psutil.TimeoutExpired:
                    continue
            output = (folder / "output").read_text()
            assert process.returncode == 0, output
            logs = "".join(
                path.read_text(errors="replace") for path in Path(session).rglob("logs/**/*") if path.is_file()
            )
            (folder / "ray.log").write_text(logs)
            yield folder, output, sockets
        finally:
            if process.poll() is None:
                process.kill()


def test_every_port_of_the_sweep_is_on_localhost(sweep):
    _, _, sockets = sweep
    outside = {(ip, port): name for (ip, port), name in sockets.items() if ip not in ("127.0.0.1", "::ffff:127.0.0.1")}
    assert len(sockets) >= 4, "the cluster's sockets are missing"
    assert {name for name in outside.values() if RENDEZVOUS not in name and "adapad:cell" not in name} == set(), outside


def test_no_secret_of_the_environment_is_in_results_tracking_or_logs(sweep):
    folder, output, _ = sweep
    assert (folder / "mlflow.db").stat().st_size and (folder / "ray.log").stat().st_size
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for name, secret in SECRETS.items():
                assert secret.encode() not in content, f"{name} in {path}"
    assert "canary" not in output
