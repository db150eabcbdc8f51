"""Jobs on a cluster elsewhere: Ray's job server, its errors in plain words, and a job's log as it grows."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from adapad_ray.distributed.ray_internals import SUBMISSION_LOGGERS, use_token_if_available
from adapad_ray.errors import BadRequestError

LOCAL = "http://127.0.0.1:8265"
"""Where a head started on this machine listens by default."""
RAY_VERSIONS = ">=2.55,<3"
"""Versions of Ray on the cluster; the same as this package's own requirement."""

_RETRY_SECONDS = 2.0
_REFUSED_AFTER = 30.0
"""Seconds without an answer after which a job's log is given up; the job itself goes on."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Of the entry point; None where it never ran or was killed."""
    message: str


class JobServer:
    """Ray's job server at an address, spoken to with the token of this machine where there is one.

    Raises:
        BadRequestError: nobody answers, the token is missing or wrong, or the cluster's Ray is none this package knows.
    """

    def __init__(self, address: str | None = None) -> None:
        # Taken away, because Ray lets the variables win over an address that was asked for.
        server, cluster = (os.environ.pop(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
        # The second may also be that of a cluster, which is no job server's.
        self.address = _url(address or server or (cluster if cluster.startswith("http") else "") or LOCAL)
        use_token_if_available()
        self.open_to_anyone = _answers_anyone(self.address)
        """Whether the cluster takes jobs without a token."""
        self._client = self._connect()
        self.ray_version = str(self._client._server_ray_version)
        if Version(self.ray_version) not in SpecifierSet(RAY_VERSIONS):
            raise BadRequestError(
                f"the cluster at {self.address} runs Ray {self.ray_version}, and this package needs {RAY_VERSIONS}: "
                "use an image with such a version"
            )

    def submit(
        self,
        entrypoint: str,
        working_dir: Path,
        *,
        name: str,
        environment: Mapping[str, str],
        cpus: float,
        gpus: float,
        metadata: Mapping[str, str],
    ) -> str:
        """Uploads a folder, starts `entrypoint` in its copy on the cluster, and returns the job's id.

        Args:
            name: becomes the job's id; no other job of the cluster may ever have had it.
            cpus: set aside for the entry point.
            gpus: the same.

        Raises:
            BadRequestError: the server refuses the job.
        """
        try:
            return str(
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    runtime_env={"working_dir": str(working_dir), "env_vars": dict(environment)},
                    metadata=dict(metadata),
                    entrypoint_num_cpus=cpus,
                    entrypoint_num_gpus=gpus,
                )
            )
        except RuntimeError as error:
            raise BadRequestError(f"the cluster at {self.address} refuses the job: {error}") from error

    def follow(self, job: str, write: Callable[[str], None]) -> JobEnd:
        """Passes on a job's log as it grows, and returns how the job ended.

        Raises:
            ConnectionError: the server has not answered for half a minute; the job may well go on.
        """
        written = 0
        answered = time.monotonic()
        while True:
            try:
                written = asyncio.run(self._tail(job, written, write))
                details = self._client.get_job_info(job)
                if details.status.is_terminal():
                    return JobEnd(details.status.value, details.driver_exit_code, details.message or "")
                answered = time.monotonic()
            except (OSError, RuntimeError) as error:  # what Ray's client and its HTTP libraries raise
                if time.monotonic() - answered > _REFUSED_AFTER:
                    raise ConnectionError(f"{self.address} no longer answers") from error
            time.sleep(_RETRY_SECONDS)

    async def _tail(self, job: str, written: int, write: Callable[[str], None]) -> int:
        """The server tells a log from its beginning; returns how many characters of it have been passed on."""
        seen = 0
        async for text in self._client.tail_job_logs(job):
            seen += len(text)
            if seen > written:
                write(text[-(seen - written) :])
                written = seen
        return written

    def _connect(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        for name in SUBMISSION_LOGGERS:  # each sets its own level when it is imported
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError as error:
            if "Forbidden" in str(error):
                raise BadRequestError(
                    f"the cluster at {self.address} refuses the token of this machine: set RAY_AUTH_TOKEN, or "
                    "RAY_AUTH_TOKEN_PATH, to the token that its head was started with"
                ) from error
            raise BadRequestError(
                f"the cluster at {self.address} wants a token and this machine has none: set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, the path of a file with it) to the token of its head"
            ) from error
        except ConnectionError as error:
            raise BadRequestError(
                f"no Ray job server answers at {self.address}: start the head (docs/cluster.md), forward its port "
                "8265 to this machine, or pass --address http://<head>:8265"
            ) from error
        except RuntimeError as error:
            raise BadRequestError(f"the Ray job server at {self.address} cannot be used: {error}") from error


def _url(address: str) -> str:
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise BadRequestError(f"address {address!r} is not that of a job server, as in http://<head>:8265")
    return address.rstrip("/")


def _answers_anyone(address: str) -> bool:
    import requests  # type: ignore[import-untyped]

    try:
        return bool(requests.get(f"{address}/api/version", timeout=10).status_code == 200)
    except requests.RequestException:
        return False
