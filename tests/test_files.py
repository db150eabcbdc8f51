"""Folders that cannot be written are known before; the URL of a database may hold any folder's name."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import create_engine, text

from adapad_ray.files import require_writable, sqlite_url

HOSTILE = "a?b#c%d %41 %3F &=;ü"
"""A folder's name with characters that URLs reserve."""


def test_a_folder_that_can_be_created_passes_and_nothing_is_created(tmp_path):
    require_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/proc/nowhere/runs", "file/runs", "file", "loop/runs", "dangling"])
def test_a_folder_that_cannot_be_written_or_created_fails(name, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"."):
        require_writable(tmp_path / name)


def test_a_full_disk_fails(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            require_writable(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_url_of_a_database_leads_to_its_file(tmp_path):
    path = tmp_path / HOSTILE / "x.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE found (value)")
    engine = create_engine(sqlite_url(path, {"timeout": "20"}))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM sqlite_master")).scalar() == "found"
    engine.dispose()
    assert [entry.name for entry in tmp_path.iterdir()] == [HOSTILE]
