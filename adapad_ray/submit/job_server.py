"""Submits jobs to a remote Ray cluster and follows their logs; errors of Ray's job server become one line."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from adapad_ray.distributed.ray_internals import SUBMISSION_LOGGERS, use_token_if_available
from adapad_ray.errors import BadRequestError
from adapad_ray.interrupts import within
from adapad_ray.submit.package import PackedSweep

LOCAL = "http://127.0.0.1:8265"
"""Default address of a head that was started on this machine."""
RAY_VERSIONS = ">=2.55,<3"
"""Versions of Ray that the cluster may run; equal to this package's own requirement."""

_LONGEST_WAIT = 8.0
"""Seconds in which the server must give its first reply."""
_RETRY_SECONDS = 2.0
_UNREACHABLE_AFTER = 30.0
"""Seconds without a reply after which `follow` raises; the job itself continues."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Exit code of the entry point; None if it never ran or was killed."""
    message: str


class JobServer:
    """A client of Ray's job server; it authenticates with this machine's token if there is one.

    Args:
        address: `http://<head>:8265`; by default `RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS` or localhost.

    Raises:
        BadRequestError: no job server answers, the token is missing or wrong, or the cluster's Ray is not supported.
    """

    def __init__(self, address: str | None = None) -> None:
        # Removed from the environment, because Ray prefers these variables to an explicit address.
        server, cluster = (os.environ.pop(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
        # RAY_ADDRESS may be the address of a cluster (host:port) instead of a job server.
        self.address = _url(address or server or (cluster if cluster.startswith("http") else "") or LOCAL)
        use_token_if_available()
        self.open_to_anyone = _is_open(self.address)
        """Whether the cluster accepts jobs without a token."""
        self._client = self._connect()
        self.ray_version = str(self._client._server_ray_version)
        if Version(self.ray_version) not in SpecifierSet(RAY_VERSIONS):
            raise BadRequestError(
                f"the cluster at {self.address} runs Ray {self.ray_version}, but adapad-ray needs {RAY_VERSIONS}: "
                "use another image"
            )

    def submit(self, sweep: PackedSweep, *, cpus: float = 0.0, gpus: float = 0.0) -> str:
        """Uploads the sweep's folder, starts its entry point on the cluster, and returns the job's id.

        Args:
            cpus: CPUs that are reserved for the entry point.
            gpus: GPUs that are reserved for the entry point.

        Raises:
            BadRequestError: the server rejects the job.
        """
        try:
            return str(
                self._client.submit_job(
                    entrypoint=sweep.entrypoint,
                    submission_id=sweep.name,
                    runtime_env={"working_dir": str(sweep.folder), "env_vars": dict(sweep.environment)},
                    metadata=dict(sweep.metadata),
                    entrypoint_num_cpus=cpus,
                    entrypoint_num_gpus=gpus,
                )
            )
        except RuntimeError as error:
            raise BadRequestError(f"the cluster at {self.address} rejected the job: {error}") from error

    def follow(self, job: str, write: Callable[[str], None]) -> JobEnd:
        """Passes a job's log to `write` as it grows, and returns how the job ended.

        Raises:
            ConnectionError: the server did not reply for 30 s; the job may still be running.
        """
        written = 0
        last_reply = time.monotonic()
        while True:
            try:
                written = asyncio.run(self._tail(job, written, write))
                details = self._client.get_job_info(job)
                if details.status.is_terminal():
                    return JobEnd(details.status.value, details.driver_exit_code, details.message or "")
                last_reply = time.monotonic()
            except (OSError, RuntimeError) as error:  # raised by Ray's client and its HTTP libraries
                if time.monotonic() - last_reply > _UNREACHABLE_AFTER:
                    raise ConnectionError(f"{self.address} no longer answers") from error
            time.sleep(_RETRY_SECONDS)

    async def _tail(self, job: str, written: int, write: Callable[[str], None]) -> int:
        """Writes the log beyond the first `written` characters, and returns its length.

        The server always sends a log from its beginning.
        """
        seen = 0
        async for text in self._client.tail_job_logs(job):
            seen += len(text)
            if seen > written:
                write(text[-(seen - written) :])
                written = seen
        return written

    def _connect(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        for name in SUBMISSION_LOGGERS:  # each sets its level on import, so this comes after it
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError as error:
            if "Forbidden" in str(error):
                raise BadRequestError(
                    f"the cluster at {self.address} rejected the token of this machine: set RAY_AUTH_TOKEN, or "
                    "RAY_AUTH_TOKEN_PATH, to the token that its head was started with"
                ) from error
            raise BadRequestError(
                f"the cluster at {self.address} requires a token and this machine has none: set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, the path of a file with it) to the token of its head"
            ) from error
        except ConnectionError as error:
            raise _unreachable(self.address) from error
        except (RuntimeError, ValueError, OSError) as error:  # OSError: a status of HTTP; ValueError: no page of Ray's
            reason = " ".join(str(error).split())
            raise BadRequestError(f"the Ray job server at {self.address} cannot be used: {reason}") from error


def _url(address: str) -> str:
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise BadRequestError(f"address {address!r} is not the URL of a job server: pass one like http://<head>:8265")
    return address.rstrip("/")


def _is_open(address: str) -> bool:
    """Whether the server replies to a request without a token.

    Raises:
        BadRequestError: nothing replies; Ray's client would wait for it forever.
    """
    import requests  # type: ignore[import-untyped]

    try:
        reply = within(_LONGEST_WAIT, partial(requests.get, f"{address}/api/version", timeout=_LONGEST_WAIT))
    except (requests.RequestException, TimeoutError) as error:
        raise _unreachable(address) from error
    return bool(reply.status_code == 200)


def _unreachable(address: str) -> BadRequestError:
    return BadRequestError(
        f"no Ray job server answers at {address}: start the head (docs/cluster.md), forward its port 8265 to this "
        "machine, or pass --address http://<head>:8265"
    )
