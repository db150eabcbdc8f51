"""Calls of `ray.init`: what it raises becomes one sentence, and a start that does not succeed leaves no process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import ray

from adapad_ray.distributed.ray_internals import bound_to_loopback, keeping_sigterm_handler
from adapad_ray.errors import BadRequestError

_END_SECONDS = 5.0
"""How long killed processes may take to go away."""


def join_cluster(address: str, options: Mapping[str, Any]) -> None:
    """Call `ray.init` for a cluster that answers at `address`.

    Raises:
        BadRequestError: Ray cannot join it, for example because it runs another version of Ray or Python.
    """
    try:
        with keeping_sigterm_handler():
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises plain exceptions, and those of every library below it
        raise BadRequestError(f"the Ray cluster at {address!r} cannot be joined: {_in_one_line(error)}") from error


def start_cluster(arguments: Mapping[str, Any]) -> None:
    """Call `ray.init` for a local cluster; try again once if its processes are not up within Ray's 30 seconds.

    Ray waits no longer, and a busy machine may need more.

    Raises:
        BadRequestError: it does not start, or the second attempt took too long as well.
    """
    for attempt in (1, 2):
        try:
            with _processes_of_a_failure_ended(), bound_to_loopback(), keeping_sigterm_handler():
                ray.init(**arguments)
            return
        except Exception as error:  # a plain `Exception` too
            if "timed out during startup" not in str(error):
                raise BadRequestError(
                    f"Ray could not start a local cluster: {_in_one_line(error)}; its logs are in the folder "
                    "ray/session_latest/logs below TMPDIR or /tmp"
                ) from error
            if attempt == 2:
                raise BadRequestError(
                    "Ray could not start a local cluster, twice within 30 seconds: this machine is overloaded, or a "
                    "firewall blocks 127.0.0.1; its logs are in the folder ray/session_latest/logs below TMPDIR or /tmp"
                ) from error


@contextmanager
def _processes_of_a_failure_ended() -> Iterator[None]:
    """Ends the processes that the block has started if an exception, Ctrl-C included, leaves it.

    Ray knows of its own only once `ray.init` has returned. Some would outlive this process by up to 90 seconds.
    """
    before = set(psutil.Process().children(recursive=True))
    try:
        yield
    except BaseException:
        ray.shutdown()
        new = [process for process in psutil.Process().children(recursive=True) if process not in before]
        for process in new:  # found before the first is killed: its children would be nobody's
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(new, timeout=_END_SECONDS)
        raise


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
