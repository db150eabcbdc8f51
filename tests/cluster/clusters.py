"""A real cluster whose nodes are processes, and the `adapad` command of a user of that cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.ports import free_port

TOKEN = "5ec2e7" * 8
REPOSITORY = Path(__file__).parents[2]
ADAPAD = [sys.executable, "-c", "from adapad_ray.cli import app; app()"]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 150.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.3)


@dataclass
class Node:
    """The processes of one `ray start`."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kills all processes at once, like a power failure."""
        parent = psutil.Process(self.process.pid)
        for process in (*parent.children(recursive=True), parent):
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@dataclass
class Head:
    """A cluster on this machine: its ports, and the environment of its users."""

    folder: Path
    """Ray's temporary folder, with the list of addresses for Prometheus."""
    gcs_port: int
    job_port: int
    environment: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.job_port}"

    def start(self, *arguments: str, cpus: int) -> Node:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}"]
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port")]
        memory = "--object-store-memory=80000000"
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        process = subprocess.Popen(
            [*command, *arguments, *ports, memory, "--disable-usage-stats"],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.nodes.append(Node(process))
        return self.nodes[-1]

    def add_node(self, cpus: int) -> Node:
        """Starts another node."""
        return self.start(f"--address=127.0.0.1:{self.gcs_port}", cpus=cpus)

    def adapad(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Starts the command in another process, with the token unless `environment` overrides it."""
        settings = {key: value for key, value in (self.environment | environment).items() if value}
        return subprocess.Popen(
            [*ADAPAD, *map(str, arguments)],
            env=settings,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return self.adapad("submit", *arguments, "--address", self.address, **environment)


def answers(head: Head) -> bool:
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
