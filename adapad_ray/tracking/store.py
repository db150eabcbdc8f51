"""The tracking store: its address, the creation of a database, and the experiment."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from adapad_ray.errors import BadRequestError
from adapad_ray.files import atomic_path
from adapad_ray.tracking.names import mlflow_key

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking_uri(configured: str) -> str:
    """The address of the store: `MLFLOW_TRACKING_URI` if set, else `configured`. SQLite paths become absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Opens the store, creating database and experiment if they are missing; returns client and experiment id.

    Raises:
        BadRequestError: the store cannot be reached or used, or the experiment was deleted.
    """
    _configure_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _create_database(uri)
        client = MlflowClient(tracking_uri=uri)
        return client, _experiment_id(client, uri, experiment)
    except (MlflowException, SQLAlchemyError) as error:
        raise unusable(uri, error) from error


def unusable(uri: str, error: Exception) -> BadRequestError:
    """The error for a store that cannot be used."""
    return BadRequestError(
        f"MLflow's store {without_password(uri)} cannot be used ({first_line(error)}): start the server, correct "
        "`tracking` or MLFLOW_TRACKING_URI, or use sqlite:///mlflow.db"
    )


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, not a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite database, with driver options if the address has any; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def without_password(uri: str) -> str:
    """The address without user and password, for messages and links."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without passwords and at most 200 characters long."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r"//[^/@\s]*@", "//", line)
    return line if len(line) <= 200 else line[:199] + "…"


def _configure_mlflow() -> None:
    """Turns off telemetry and log messages and shortens retries. Variables that the user has set stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow  # noqa: F401  (the import sets the log levels that the next lines change)

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _create_database(uri: str) -> None:
    """Creates a missing SQLite database under a temporary name, so that it is either complete or absent.

    MLflow takes seconds to create its tables. If it is killed meanwhile, it rejects that database ever after.
    """
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequestError(f"cannot create the folder of MLflow's store {path} ({error.strerror})") from error
    path = sqlite_path(uri.partition("?")[0])  # without driver options
    if path is None or path.exists():
        return
    # A file system without hard links raises OSError; MLflow then creates the database in place.
    with suppress(OSError), atomic_path(path, overwrite=False) as temporary:
        MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id. Artifacts of a new experiment in SQLite go to `mlartifacts` beside the database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = sqlite_path(uri)
        location = None if path is None else (path.parent / "mlartifacts" / mlflow_key(name).replace("/", "_")).as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        raise BadRequestError(
            f"MLflow's experiment {name!r} was deleted: run `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}` or give the sweep another name"
        )
    return str(experiment.experiment_id)
