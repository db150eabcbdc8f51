"""The address of the store, its creation, and stores that cannot be used."""

import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adapad_ray.errors import BadRequestError
from adapad_ray.tracking import store
from adapad_ray.tracking.store import check_store, sqlite_path, tracking_uri
from adapad_ray.tracking.tracker import Tracker
from tests.ports import free_port, page_server, silent_server
from tests.tracking.helpers import runs


def test_the_environment_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri("sqlite:///mlflow.db") == "http://localhost:5000"


def problem(uri):
    with pytest.raises(BadRequestError) as caught:
        check_store(uri, "demo")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_server_that_is_down(scheme):
    port = free_port()
    text = problem(f"{scheme}://user:secret@127.0.0.1:{port}/store")
    assert f"{scheme}://127.0.0.1:{port}/store cannot be used (Connection refused)" in text
    assert "secret" not in text


@pytest.mark.parametrize("uri", ["http://", "http://127.0.0.1:99999", "http://[::1", "postgresql://127.0.0.1:port/x"])
def test_an_address_that_is_no_url(uri):
    assert f"MLflow's store {uri} cannot be used" in problem(uri)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("127.0.0.1:5000", "it does not begin with http:// or https://"),
        ("localhost:5000/mlflow", "it does not begin with http:// or https://"),
        ("htp://127.0.0.1:5000", "its scheme 'htp' is none of http, https, sqlite, postgresql, mysql, mssql"),
        ("sqlite://mlflow.db", "SQLite's addresses begin with sqlite:///"),
        ("mlruns", "maintenance mode"),
        ("file:///tmp/mlruns", "maintenance mode"),
    ],
)
def test_an_address_that_is_no_store_has_a_reason(uri, reason):
    assert f"MLflow's store {uri} cannot be used (" in (text := problem(uri)) and reason in text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers(scheme, monkeypatch):
    monkeypatch.setattr(store, "LONGEST_WAIT", 0.3)
    with silent_server() as port:
        assert "cannot be used" in problem(f"{scheme}://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("status", "page", "reason"),
    [
        (200, b"<!doctype html>\n<title>Sign in</title>", "its reply is not MLflow's"),
        (200, b'{"hello": "world"}', "its reply is not MLflow's"),
        (404, b"404 page not found", "it answers HTTP 404 Not Found"),
        (502, b"<html><h1>502 Bad Gateway</h1><hr>nginx</html>", "it answers HTTP 502 Bad Gateway"),
        (401, b'{"detail": "Not authenticated", "trace": ["x"]}', "it answers: Not authenticated"),
        (400, b'{"trace": [{"x": 1}]}', "its reply is not MLflow's"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "for bob\\nmore"}', "PERMISSION_DENIED: for bob"),
    ],
)
def test_what_a_server_replies_is_not_quoted(status, page, reason, monkeypatch):
    """It may be the page of a proxy, or JSON of something else."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with page_server(status, page) as port:
        uri = f"http://127.0.0.1:{port}"
        for opened in (lambda: Tracker.open(uri, "demo", "demo"), lambda: store.connect(uri, "demo")):
            with pytest.raises(BadRequestError) as refused:
                opened()
            assert str(refused.value).startswith(f"MLflow's store {uri} cannot be used ({reason}): start the server")
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "page", "reason"),
    [
        (200, b"<html>welcome</html>", "its reply is not MLflow's"),
        (404, b"404 page not found", "it answers HTTP 404 Not Found"),
        (503, b"", "it answers HTTP 503 Service Unavailable"),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}', None),
        (200, b'{"experiment": {"experiment_id": "0"}}', None),
        (401, b"<html>who are you?</html>", "it answers HTTP 401 Unauthorized"),
        (403, b"<html>not you</html>", "it answers HTTP 403 Forbidden"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "for bob"}', "PERMISSION_DENIED: for bob"),
        (307, b"", "its reply is not MLflow's"),
    ],
)
def test_a_check_sees_whether_a_server_is_mlflow_and_lets_this_user_in(status, page, reason):
    with page_server(status, page) as port:
        uri = f"http://127.0.0.1:{port}"
        if reason is None:
            check_store(uri, "demo")
        else:
            assert f"{uri} cannot be used ({reason})" in problem(uri)


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_that_can_only_be_read(status):
    with page_server(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', to_writers=status) as port:
        assert re.search(rf"it answers HTTP {status} .* to requests that write", problem(f"http://127.0.0.1:{port}"))


def test_a_server_that_does_not_encrypt():
    with page_server() as port:
        assert "(it answers, but not by https: use http://)" in problem(f"https://127.0.0.1:{port}")


def test_a_server_that_wants_a_password_gets_that_of_mlflows_environment(monkeypatch):
    with page_server(200, b'{"experiment": {"experiment_id": "0"}}', password="open") as port:
        uri = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open")
        check_store(uri, "demo")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "shut")
        assert "it answers HTTP 401 Unauthorized" in problem(uri)


def test_a_database_whose_driver_is_missing(monkeypatch):
    monkeypatch.setattr(store, "check_store", lambda uri, experiment: None)
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(BadRequestError, match="needs the package pymysql: install it"):
        store.connect("mysql+pymysql://127.0.0.1/store", "demo")


def test_an_address_that_is_no_store_is_a_bad_request(tmp_path):
    for uri in ("nonsense://x", str(tmp_path / "mlruns")):
        with pytest.raises(BadRequestError):
            Tracker.open(uri, "demo", "demo")


@pytest.mark.parametrize("path", ["file/mlflow.db", "folder", "junk.db"])
def test_a_path_that_is_no_database(path, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.db").write_text("no database" * 100)
    assert f"{tmp_path}/{path} cannot be used" in problem(f"sqlite:///{tmp_path}/{path}")


def test_a_folder_that_cannot_be_written():
    assert "(No such file or directory)" in problem("sqlite:////proc/nowhere/mlflow.db")


def test_a_database_that_cannot_be_written(uri, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **kw: connect(name.replace("mode=rw", "mode=ro"), **kw))
    assert "(attempt to write a readonly database)" in problem(uri)


def test_a_database_that_another_process_has_locked(uri, monkeypatch):
    monkeypatch.setattr(store, "LONGEST_WAIT", 2.0)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "(database is locked)" in problem(uri)


def test_a_database_of_another_mlflow(uri):
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(BadRequestError, match=r"database schema .found version ffffffffffff"):
        Tracker.open(uri, "demo", "demo")


def test_checking_a_database_leaves_it_as_it_was(uri):
    path = Path(uri.removeprefix("sqlite:///"))
    before = path.read_bytes()
    check_store(uri, "demo")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_database_in_a_folder_of_any_name(uri, tmp_path, monkeypatch):
    folder = tmp_path / "a?b#c%d %41 %3F&=;ü"
    folder.mkdir()
    shutil.move(uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    monkeypatch.chdir(folder)
    for spelling in ("sqlite:///mlflow.db", f"sqlite:///{folder}/mlflow.db", "sqlite:///mlflow.db?timeout=20"):
        assert sqlite_path(tracking_uri(spelling)) == folder / "mlflow.db"
    tracker = Tracker.open("sqlite:///mlflow.db", "demo", "demo")
    run = tracker.runs.parent_id
    tracker.runs.client.log_text(run, "content", "note.txt")
    assert shlex.split(tracker.how_to_look["MLflow"])[-1] == "sqlite:///mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(tracker.how_to_look["MLflow"])[-1] == tracker.uri
    monkeypatch.chdir(folder)
    tracker.close()
    assert {entry.name for entry in tmp_path.iterdir()} == {folder.name}
    assert {entry.name for entry in folder.iterdir()} == {"mlflow.db", "mlartifacts"}
    client = MlflowClient(tracking_uri=tracker.uri)
    assert [artifact.path for artifact in client.list_artifacts(run)] == ["note.txt"]


def test_characters_that_are_written_as_urls_write_them_are_read(tmp_path):
    (tmp_path / "a?b").mkdir()
    assert sqlite_path(tracking_uri(f"sqlite:///{tmp_path}/a%3Fb/mlflow.db")) == tmp_path / "a?b" / "mlflow.db"


def test_a_launch_that_is_killed_while_its_store_is_created_leaves_none(tmp_path):
    path = tmp_path / "mlflow.db"
    command = f"from adapad_ray.tracking.tracker import Tracker; Tracker.open('sqlite:///{path}', 'demo', 'demo')"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=tmp_path)
    while not any(file.stat().st_size for file in tmp_path.glob("*.db")):  # the first of some fifty migrations
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not path.exists()
    Tracker.open(f"sqlite:///{path}", "demo", "demo").close()
    assert len(runs(f"sqlite:///{path}")) == 1


def test_a_deleted_experiment_is_named(uri):
    tracker = Tracker.open(uri, "gone", "gone")
    MlflowClient(tracking_uri=uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(BadRequestError, match=r"^MLflow's experiment 'gone' was deleted"):
        Tracker.open(uri, "gone", "gone")
