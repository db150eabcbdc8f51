"""One launch at a time in a sweep's folder: a file lock, and heartbeats in stores of files and of S3."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import fsspec
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.storage import Store
from adapad_ray.sweep import store_lock
from adapad_ray.sweep.lock import HOLDER, FolderLock, SweepLock
from adapad_ray.sweep.store_lock import StoreLock


def content(url: str) -> dict[str, bytes]:
    """What lies below a URL, read with fsspec alone."""
    files, root = fsspec.url_to_fs(url)
    files.invalidate_cache()
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store/runs/mine"
    return f"{request.getfixturevalue('bucket')}/runs/mine"


@pytest.fixture(params=["folder", "file", "s3"])
def make_lock(request: pytest.FixtureRequest, tmp_path: Path):
    """Makes locks of one sweep."""
    if request.param == "folder":
        return lambda: FolderLock(tmp_path / "runs" / "mine")
    url = f"file://{tmp_path}/store/runs/mine" if request.param == "file" else f"{request.getfixturevalue('bucket')}/m"
    return lambda: StoreLock(url)


def write_heartbeat(url: str, *, process: int, host: str, seconds_ago: float) -> None:
    heartbeat = {"token": "other", "host": host, "process": process, "time": time.time() - seconds_ago}
    Store(url).write(HOLDER, json.dumps(heartbeat).encode())


def test_a_held_lock_is_refused_until_it_is_released(make_lock):
    with make_lock() as lock:
        lock.check()
        other: SweepLock = make_lock()
        assert other.held_by is not None
        assert other.held_by.startswith(f"process {os.getpid()} on {socket.gethostname()}")
        with pytest.raises(BadRequestError, match=rf"in use by process {os.getpid()} on "), other:
            pass
    with make_lock():
        pass


def test_the_lock_of_a_folder_outlives_a_refused_launch(tmp_path):
    with FolderLock(tmp_path):
        for _ in range(2):
            with pytest.raises(BadRequestError, match="in use by"), FolderLock(tmp_path):
                pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequestError, match=f"output folder {tmp_path}/file/sweep cannot be written"):
        FolderLock(tmp_path / "file" / "sweep").acquire()


def test_a_missing_bucket_is_not_created(bucket):
    with (
        pytest.raises(BadRequestError, match=r"no-such-bucket/runs/mine.* cannot be reached"),
        StoreLock("s3://no-such-bucket/runs/mine"),
    ):
        pass
    files, _ = fsspec.url_to_fs(bucket)
    assert "no-such-bucket" not in files.ls("")


def test_a_released_lock_leaves_nothing_in_the_store(url):
    with StoreLock(url):
        assert HOLDER in content(url)
    assert content(url) == {}


def test_the_lock_of_a_killed_launch_expires(url):
    write_heartbeat(url, process=4, host="elsewhere", seconds_ago=20)  # a slow machine reads it later
    with pytest.raises(BadRequestError, match=r"process 4 on elsewhere, which wrote [2-5]\d s ago"), StoreLock(url):
        pass
    write_heartbeat(url, process=4, host="elsewhere", seconds_ago=store_lock.EXPIRY_SECONDS + 1)
    with StoreLock(url):
        pass
    write_heartbeat(url, process=2**22 + 1, host=socket.gethostname(), seconds_ago=1)  # above Linux's largest
    with StoreLock(url):
        pass


def test_a_damaged_heartbeat_holds_nothing(url):
    Store(url).write(HOLDER, b"\xff{")
    with StoreLock(url):
        pass


def test_a_launch_notices_that_another_has_taken_over(url, monkeypatch):
    monkeypatch.setattr(store_lock, "HEARTBEAT_SECONDS", 0.05)
    with StoreLock(url) as lock:
        before = Store(url).read(HOLDER)
        while Store(url).read(HOLDER) == before:
            time.sleep(0.02)
        deadline = time.monotonic() + 60
        with pytest.raises(BadRequestError, match="taken over by process 4 on elsewhere"):
            while time.monotonic() < deadline:
                # Again: a heartbeat may have been on its way.
                write_heartbeat(url, process=4, host="elsewhere", seconds_ago=0)
                lock.check()
                time.sleep(0.1)
    assert HOLDER in content(url), "it is another's now"
