"""A real head with token authentication, for the tests of this folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import REPOSITORY, TOKEN, Head, answers, wait_until

from tests.ports import free_port


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head with two CPUs, on free ports and with its own temporary folder."""
    for module in ("aiohttp_cors", "opencensus", "opentelemetry.exporter.prometheus"):
        pytest.importorskip(module, reason="Ray's job server needs ray[default]")
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # short, for the paths of sockets
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))},
            "HOME": folder,  # hides the token of this machine's user
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_metrics_report_interval_ms": "2000",
        }
        head = Head(Path(folder), free_port(), free_port(), environment)
        head.start(
            "--head",
            f"--port={head.gcs_port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={head.job_port}",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={folder}",
            cpus=2,
        )
        try:
            wait_until(lambda: answers(head), "job server")
            yield head
        finally:
            for node in reversed(head.nodes):
                if node.process.poll() is None:
                    node.kill()
