"""Every private name and environment switch of Ray that this project relies on; nothing else in the package uses one.

Ray gives no promise about them. All were checked against Ray 2.60.0; check them again when the version in
`constraints.txt` changes. Each function states what public functions lack.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray.core.generated.gcs_pb2 import GcsNodeInfo, PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

from adapad_ray.errors import BadRequestError
from adapad_ray.files import require_writable

TRAIN_ENVIRONMENT: Mapping[str, str] = {
    # How often a controller checks its workers. Ray's default of 2 s delays every start, death and end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The watcher is a process that warns workers before their node goes away. They keep checkpoints anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Environment of the process that calls `TorchTrainer.fit`."""

TUNE_ENVIRONMENT: Mapping[str, str] = {
    # Ctrl-C raises KeyboardInterrupt in the driver, instead of asking Tune to wind up.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # verbose=0 is silent only in the old output.
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Environment of the process that calls `Tuner.fit`."""

_LONGEST_SESSION = "session_2000-01-01_00-00-00_000000_4194304"
"""A name of a session's folder with the largest process id of Linux."""

SUBMISSION_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that report every step of a job submission."""

# Callbacks of Ray Train that start an actor each. One distributes Ray Data sets, which are not used. The placement
# group cleaner is detached: without the dashboard's packages it does not notice that its controller was killed, and
# stays until the cluster ends. `remove_placement_groups_of` does its work.
_UNUSED_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback")


def local_cluster_options(num_cpus: int) -> dict[str, Any]:
    """Return arguments of `ray.init` for a local cluster, besides those that users choose."""
    settings = {
        # A pool is mostly waiting processes, more than there are CPUs, and Ray would warn about their number.
        "worker_maximum_startup_concurrency": max(8, num_cpus),
        # One idle process for every CPU, of which none is used: workers have an environment of their own.
        "prestart_worker_first_driver": False,
        "enable_worker_prestart": False,
    }
    return {"_system_config": settings}


@contextmanager
def bound_to_loopback() -> Iterator[None]:
    """Let the services that Ray starts inside the block listen on 127.0.0.1 only.

    On Linux they bind to every interface, whatever address they are given, because other nodes may join; on macOS and
    Windows they do not. The difference is one switch, which Ray reads when it is imported.
    """
    constants = ray._private.ray_constants
    variable, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    inherited = os.environ.get(variable)
    constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if inherited is None:
            del os.environ[variable]
        else:
            os.environ[variable] = inherited


@contextmanager
def keeping_sigterm_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while `ray.init` runs, which sets two.

    The one in Python exits with code 15. The one in C++, set by the constructor of the core worker, prints a stack and
    aborts; it is replaced as soon as it can be.
    """

    def core_worker(*args: Any, **kwargs: Any) -> Any:
        try:
            return make_core_worker(*args, **kwargs)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

    utils, raylet = ray._private.utils, ray._raylet
    set_handler, make_core_worker = utils.set_sigterm_handler, raylet.CoreWorker
    utils.set_sigterm_handler, raylet.CoreWorker = lambda handler: None, core_worker
    try:
        yield
    finally:
        utils.set_sigterm_handler, raylet.CoreWorker = set_handler, make_core_worker


def check_local_start() -> None:
    """Check that a local cluster can write its files, and make its token as `ray.init` does.

    Raises:
        BadRequestError: the folder for its files cannot be written or has a name too long for sockets, its port is
            taken, or the token cannot be stored.
    """
    folder = ray._common.utils.get_default_ray_temp_dir()
    try:
        ray._private.utils.validate_socket_filepath(f"{folder}/{_LONGEST_SESSION}/sockets/plasma_store")
    except OSError as error:
        raise BadRequestError(
            f"Ray puts sockets into {folder}, a name too long for them: set TMPDIR, or RAY_TMPDIR, to a shorter "
            "one, as in TMPDIR=/tmp"
        ) from error
    try:
        require_writable(folder)
    except OSError as error:
        raise BadRequestError(
            f"Ray cannot write to {folder} ({error.strerror}): set TMPDIR, or RAY_TMPDIR, to another folder"
        ) from error
    port = os.environ.get(ray._private.ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE, "")
    try:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", int(port or 0)))
    except (OSError, ValueError, OverflowError) as error:
        raise BadRequestError(
            f"Ray cannot listen on port {port!r} ({error}): unset RAY_GCS_SERVER_PORT, or set it to a free port"
        ) from error
    try:
        if enable_token_auth_by_default():
            ensure_token_if_auth_enabled()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise BadRequestError(
            f"Ray cannot store its token in the home folder ({error}): set HOME to a folder that can be written, or "
            "RAY_AUTH_TOKEN to a long random text"
        ) from error


def address_on_this_machine() -> str | None:
    """Return the `host:port` of the cluster that runs on this machine; None if there is none."""
    try:
        address: str = ray._private.services.canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None
    return address


def open_control_store(host: str, port: int) -> Any:
    """Return a client of a cluster's control store (GCS).

    Raises:
        Exception: nothing answers for 30 seconds, or something that is no control store.
    """
    return ray._raylet.GcsClient(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def has_node_on_this_machine(client: Any, seconds: float) -> bool:
    """Whether a live node of the cluster runs on this machine; `ray.init` waits a minute for one."""
    alive = client.get_all_node_info(timeout=seconds, state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
    return bool({node.hex() for node in alive} & set(ray._private.services.find_node_ids()))


def gpus_of(client: Any, seconds: float) -> float:
    """Return the number of GPUs on the live nodes of a cluster, before this process joins it."""
    alive = client.get_all_node_info(timeout=seconds, state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
    return float(sum(node.resources_total.get("GPU", 0.0) for node in alive.values()))


def dashboard_address() -> str | None:
    """Address of the dashboard of the cluster that this process is connected to; None if it has none.

    `ray.init` tells it to its caller alone, and the caller may be another one.
    """
    address = ray._private.worker.get_dashboard_url()
    return f"http://{address}" if address else None


def silence_authentication() -> None:
    """Drop the long notice that Ray prints when it creates an authentication token."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def use_token_if_available() -> None:
    """Turn token authentication on if this machine has a token. Ray's job client does not do it by itself."""
    silence_authentication()
    maybe_enable_token_auth_if_token_available(False)


def cluster_config() -> Any:
    """Return the node types that a platform has stored with the cluster (a `ClusterConfig` message), or None.

    Ray's own autoscalers store none.
    """
    return ray._private.state.state.get_cluster_config()


def autoscaling_file() -> str | None:
    """Return the path of the file by which this cluster's autoscaler runs on this machine; None without one."""
    address = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        files = [part.partition("=")[2] for part in command if part.startswith("--autoscaling-config=")]
        if files and address in command:
            return str(files[0])
    return None


def remove_placement_groups_of(actor: ray.actor.ActorHandle) -> None:
    """Remove the placement groups that an actor has made, before it was restarted or killed.

    A killed controller of Ray Train, even one whose workers are still starting, leaves its placement group behind until
    the driver ends. After a restart it would wait for these very resources. Public functions do not tell who created a
    placement group.
    """
    for entry in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        if group.creator_actor_id == actor._actor_id.binary():
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


async def ping(actor: ray.actor.ActorHandle) -> None:
    """Call an actor without a method of its own.

    Raises:
        ActorUnavailableError: the actor cannot be reached at the moment.
        RayActorError: the actor is dead.
    """
    await actor.__ray_ready__.remote()


def lean_torch_trainer(*args: Any, **kwargs: Any) -> Any:
    """Make a `TorchTrainer` whose `fit` needs no processes beside the workers.

    Ray Train starts an actor for its controller and one each for callbacks of no use here. A process takes Ray more
    than a second, and the controller is imported once more. Here the controller runs in the calling actor.
    """
    import ray.train.torch
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class FixedGroup(FixedScalingPolicy):  # type: ignore[misc]
        """Leaves out the requests to the autoscaling coordinator: the placement group itself makes a cluster grow."""

        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    class Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in _UNUSED_CALLBACKS]

        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            async def run() -> Any:
                controller = TrainController(**settings | {"scaling_policy": FixedGroup(self.scaling_config)})
                await controller.run()
                return controller.get_result()

            return asyncio.run(run())

    return Trainer(*args, **kwargs)


@contextmanager
def process_title(title: str) -> Iterator[None]:
    """Show this actor's process as `ray::<title>` in `ps` and in Ray's dashboard while the block runs.

    Workers outlive their cells, and an actor's name never changes. Ray builds the title from the actor's class after
    every call, so the class is renamed; it belongs to this actor alone. Ray reports memory and CPU under the title.
    """
    worker = ray._private.worker.global_worker
    own_class = type(worker.actors[worker.actor_id])
    before = own_class.__name__
    own_class.__name__ = title
    ray._raylet.setproctitle(f"ray::{title}")
    try:
        yield
    finally:
        own_class.__name__ = before
        ray._raylet.setproctitle(f"ray::{before}")
