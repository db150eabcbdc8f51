"""Folders that cannot be written are known before; the URL of a database may hold any folder's name."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import create_engine, text

from adapad_ray.errors import BadRequestError
from adapad_ray.files import filled, require_writable, sqlite_url

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
    with files_of_at_most(0), pytest.raises(OSError, match="too large"):
        require_writable(tmp_path)


@contextmanager
def files_of_at_most(size):
    """A limit on the files of this process, which fails like a full disk."""
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_that_cannot_be_filled_is_left_empty(tmp_path, existed):
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    (source / "large").write_bytes(b"x" * 2**22)
    (source / "small").write_bytes(b"x")
    if existed:
        to.mkdir()
    for write in (
        lambda: shutil.copytree(source, to, dirs_exist_ok=True),
        lambda: save_file({"a": np.zeros(2**20)}, to / "a.safetensors"),
    ):
        with (
            files_of_at_most(2**21),
            pytest.raises(BadRequestError, match=r"output folder .*/to cannot be written: \w"),
            filled(to),
        ):
            to.mkdir(exist_ok=True)
            write()
        assert to.exists() == existed and not (existed and list(to.iterdir()))


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
