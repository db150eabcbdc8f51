"""Which Ray cluster a launch uses, and whether it can be used, before anything waits for it.

`ray.init` tries an address that nobody answers for a quarter of an hour, and no signal ends it.
"""

from __future__ import annotations

import os
import socket
from functools import partial

from adapad_ray.distributed.ray_internals import (
    address_on_this_machine,
    check_local_start,
    gpus_of,
    has_node_on_this_machine,
    open_control_store,
    use_token_if_available,
)
from adapad_ray.errors import BadRequestError
from adapad_ray.interrupts import within

LONGEST_PROBE = 4.0
"""Seconds in which a cluster must answer; after 5, Ray's client would print warnings."""


def find_cluster(address: str | None = None) -> str | None:
    """The `host:port` of a cluster that answers, at `address` or else `RAY_ADDRESS`; None if one is to be started here.

    Raises:
        BadRequestError: no cluster answers at the address, it is none, or a local cluster could not be started.
    """
    address = (address or os.environ.get("RAY_ADDRESS") or "").strip()
    if address in ("", "local"):
        check_local_start()
        return None
    if address == "auto":
        found = address_on_this_machine()
        if found is None:
            raise BadRequestError(
                "RAY_ADDRESS is 'auto', but no Ray cluster runs on this machine: start one with `ray start --head`, or "
                "unset RAY_ADDRESS"
            )
        address = found
    host, port = _host_and_port(address)
    # Ray does this for `auto` only; without the token, a cluster that wants one rejects its own machines.
    use_token_if_available()
    try:
        is_node = within(LONGEST_PROBE, partial(_is_node_of, host, port))
    except Exception as error:  # errors of sockets, of gRPC and of Ray, which share no class
        raise BadRequestError(
            f"no Ray cluster answers at {address!r} ({_reason(error)}): start it, correct RAY_ADDRESS, or unset "
            "RAY_ADDRESS to use this machine alone"
        ) from error
    if not is_node:
        raise BadRequestError(
            f"this machine runs no node of the Ray cluster at {address!r}: run `ray start --address={address}` here, "
            "use `adapad submit`, or unset RAY_ADDRESS to use this machine alone"
        )
    return address


def gpus_at(address: str) -> float:
    """The number of GPUs of a cluster that `find_cluster` has found."""
    return gpus_of(open_control_store(*_host_and_port(address)), LONGEST_PROBE)


def _host_and_port(address: str) -> tuple[str, int]:
    scheme, separator, rest = address.partition("://")
    if separator:
        server = address if scheme in ("http", "https") else f"http://{rest.rpartition(':')[0] or rest}:8265"
        raise BadRequestError(
            f"RAY_ADDRESS {address!r} is not the address of a cluster, which is host:port, usually port 6379: run "
            f"`adapad submit --address {server}` to use a cluster elsewhere, or unset RAY_ADDRESS"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise BadRequestError(
            f"RAY_ADDRESS {address!r} is not the address of a cluster: it is host:port, as in 10.0.0.1:6379, or auto"
        )
    return host.strip("[]"), int(port)


def _is_node_of(host: str, port: int) -> bool:
    socket.create_connection((host, port), timeout=LONGEST_PROBE).close()  # its errors name the reason, Ray's do not
    return has_node_on_this_machine(open_control_store(host, port), LONGEST_PROBE)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
