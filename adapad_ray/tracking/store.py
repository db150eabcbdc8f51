"""The tracking store: its address, the creation of a database, and the experiment."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sqlite3
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from adapad_ray.errors import BadRequestError
from adapad_ray.files import atomic_path, require_writable, sqlite_url
from adapad_ray.interrupts import within
from adapad_ray.tracking.names import EXPERIMENT_KIND, TRAINING, mlflow_key
from adapad_ray.tracking.reasons import FOREIGN, answered, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_STORE = "sqlite:///mlflow.db"
LONGEST_WAIT = 15.0
"""Seconds in which the store must give its first answer: on a busy machine a server takes more than five."""
_CONNECTION_WAIT = 5.0
"""Seconds in which its machine must take the connection."""
_WHO_ASKS = (401, 403, 407)
"""Status of replies to those who are not let in."""
_READ_ONLY = (*_WHO_ASKS, 405, 501)
"""Status of replies to requests that would write."""
_LONGEST_REPLY = 1000
"""Bytes that are read of a reply."""
_SQLITE = "sqlite:///"
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Dialect → port of its servers, unless the address names one."""
_ONLY_MLFLOW = ("", "file", "databricks", "databricks-uc", "uc")
"""Schemes of stores that only MLflow can check; plugins add others."""


def tracking_uri(configured: str) -> str:
    """The address of the store: `MLFLOW_TRACKING_URI` if set, else `configured`. SQLite paths become absolute.

    A path may hold `?`, `#` and `%`, which URLs reserve: they are written as URLs write them.

    Raises:
        BadRequestError: the path cannot be written as a URL (`sqlite_url`).
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured
    if not uri.startswith(_SQLITE):
        return uri
    return sqlite_url(*_path_and_options(uri.removeprefix(_SQLITE)))


def check_store(configured: str, experiment: str) -> None:
    """Checks within seconds that the store answers, lets this user in and can be written.

    MLflow itself would try for minutes, and its import takes seconds: it is used only for a server that wants to know
    who asks, and for stores of other kinds.

    Raises:
        BadRequestError: it does not.
    """
    uri = tracking_uri(configured)
    try:
        answers = within(LONGEST_WAIT, partial(_answers, uri))
    except (OSError, ValueError, sqlite3.Error) as error:  # ValueError: no URL
        raise unusable(uri, error) from error
    if not answers:
        _ask_as_user(uri, experiment)


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
        found = _experiment_id(client, uri, experiment)
        _remove_misread_folder(uri)
        return client, found
    except BadRequestError:
        raise
    except ImportError as error:  # the driver of a database
        raise BadRequestError(
            f"MLflow's store {without_password(uri)} needs the package {error.name}: install it, or use another store"
        ) from error
    except (MlflowException, SQLAlchemyError, ValueError) as error:  # ValueError: a reply that is not MLflow's
        raise unusable(uri, error) from error


def unusable(uri: str, error: Exception) -> BadRequestError:
    """The error for a store that cannot be used."""
    remedy = (
        "start the server, correct `tracking` or MLFLOW_TRACKING_URI, or use sqlite:///mlflow.db"
        if sqlite_path(uri) is None
        else "it must be a database that can be written here; choose another with `tracking` or MLFLOW_TRACKING_URI"
    )
    return BadRequestError(f"MLflow's store {without_password(uri)} cannot be used ({reason_of(error)}): {remedy}")


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, not a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """The path of the SQLite database at an address that `tracking_uri` has returned; None for other stores."""
    if not uri.startswith(_SQLITE):
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or "")


def without_password(uri: str) -> str:
    """The address without user and password, for messages and links."""
    return re.sub("//[^/?#]*@", "//", uri, count=1)


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
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback


def _path_and_options(text: str) -> tuple[Path, dict[str, str]]:
    """The absolute path and the driver's options in what follows `sqlite:///`.

    A `?` begins options only if options follow, and `%41` is a letter only if no folder has that very name.
    """
    name, mark, query = text.rpartition("?")
    if not mark or not re.fullmatch(r"\w+=[^&=?/]*(&\w+=[^&=?/]*)*", query):
        name, query = text, ""
    path = Path(name).absolute()
    return path if path.parent.is_dir() else Path(unquote(name)).absolute(), dict(parse_qsl(query))


def _answers(uri: str) -> bool:
    """Checks a store without MLflow; False for one that only MLflow can check."""
    path = sqlite_path(uri)
    if path is not None:
        _check_database(path)
    elif is_server(uri):
        return _answers_everyone(uri)
    else:
        return _answers_at_port(uri)
    return True


def _answers_at_port(uri: str) -> bool:
    """Checks the server of a database; False for a store that only MLflow can check."""
    if re.match(r"[\w.-]+:\d+(/|$)", uri):
        raise ValueError("it does not begin with http:// or https://")
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        raise ValueError("SQLite's addresses begin with sqlite:///")
    if scheme in _ONLY_MLFLOW or entry_points(group="mlflow.tracking_store", name=parts.scheme):
        return False
    if scheme not in _DATABASE_PORTS:
        raise ValueError(f"its scheme {parts.scheme!r} is none of http, https, sqlite, {', '.join(_DATABASE_PORTS)}")
    if parts.hostname is not None:  # else there is no port
        _check_port(parts.hostname, parts.port or _DATABASE_PORTS[scheme])
    return True


def _check_database(path: Path) -> None:
    """Writes to a SQLite database, if there is one, and takes it back."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    require_writable(path.parent)  # for its journal too
    if path.exists():
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0.5 * LONGEST_WAIT)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE adapad_check (value)")  # a read-only database can begin, but not this
            database.rollback()


def _answers_everyone(uri: str) -> bool:
    """Asks a server for an experiment, and to create one without a name.

    MLflow answers the first question with an object of JSON, whether there is such an experiment or not, and the second
    with an error, which is another one where a proxy lets nobody write. False if it wants to know who asks, sends the
    question elsewhere, or has a certificate for which MLflow needs its settings.
    """
    import requests  # type: ignore[import-untyped]

    experiments = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments"
    options: dict[str, Any] = {"timeout": (_CONNECTION_WAIT, LONGEST_WAIT), "stream": True, "allow_redirects": False}
    try:
        with requests.get(f"{experiments}/get-by-name", {"experiment_name": "Default"}, **options) as reply:
            if reply.status_code in _WHO_ASKS or reply.is_redirect:
                return False
            content = reply.raw.read(_LONGEST_REPLY, decode_content=True)
        if not content.lstrip().startswith(b"{"):
            raise ValueError(FOREIGN if reply.ok else answered(reply.status_code))
        with requests.post(f"{experiments}/create", json={}, **options) as reply:
            if reply.status_code in _READ_ONLY:
                raise ValueError(f"{answered(reply.status_code)} to requests that write")
    except requests.exceptions.SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error):
            raise ValueError("it answers, but not by https: use http://") from error
        return False
    except requests.RequestException:
        parts = urlsplit(uri)
        if parts.hostname is not None:  # its own error says why, in few words
            _check_port(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        raise
    return True


def _ask_as_user(uri: str, experiment: str) -> None:
    """Asks a store for the experiment as MLflow does, with the user's password, token and certificates."""
    _configure_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        within(LONGEST_WAIT, lambda: MlflowClient(tracking_uri=uri).get_experiment_by_name(experiment))
    except (MlflowException, OSError, ValueError) as error:
        raise unusable(uri, error) from error


def _check_port(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=_CONNECTION_WAIT).close()


def _create_database(uri: str) -> None:
    """Creates a missing SQLite database under a temporary name, so that it is either complete or absent.

    MLflow takes seconds to create its tables. If it is killed meanwhile, it rejects that database ever after.
    """
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    # A file system without hard links raises OSError; MLflow then creates the database in place.
    with suppress(OSError), atomic_path(path, overwrite=False) as temporary:
        MlflowClient(tracking_uri=sqlite_url(temporary)).search_experiments(max_results=1)


def _remove_misread_folder(uri: str) -> None:
    """Removes the empty folder that MLflow makes for a database: it reads the path off the URL without decoding it."""
    path = sqlite_path(uri)
    misread = Path(uri.removeprefix(_SQLITE).partition("?")[0]).parent
    if path is not None and misread != path.parent:
        with suppress(OSError):
            os.removedirs(misread)


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id. Artifacts of a new experiment in SQLite go to `mlartifacts` beside the database.

    It opens on its runs: without its kind MLflow's page of an experiment opens on traces, of which there are none.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = sqlite_path(uri)
        location = None if path is None else (path.parent / "mlartifacts" / mlflow_key(name).replace("/", "_")).as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags={EXPERIMENT_KIND: TRAINING}))
    if experiment.lifecycle_stage == "deleted":
        raise BadRequestError(
            f"MLflow's experiment {name!r} was deleted: run `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}` or give the sweep another name"
        )
    if not experiment.experiment_id:  # MLflow's client takes any JSON for an experiment
        raise ValueError(FOREIGN)
    if EXPERIMENT_KIND not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, EXPERIMENT_KIND, TRAINING)
    return str(experiment.experiment_id)
