"""Working folders on URLs, against a real file store and an S3 server."""

from __future__ import annotations

import shutil

import fsspec
import pytest

from adapad_ray import storage
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.storage import Store, WorkingFolder, working_folder
from adapad_ray.sweep.lock import HOLDER
from tests.ports import silent_server


def content(url: str) -> dict[str, bytes]:
    """File → content below a URL, read with fsspec directly."""
    files, root = fsspec.url_to_fs(url)
    files.invalidate_cache()
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store/runs/mine"
    return f"{request.getfixturevalue('bucket')}/runs/mine"


def put(folder: WorkingFolder, name: str, text: str) -> None:
    path = folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_one_machine_saves_another_fetches(url):
    with working_folder(url) as first, working_folder(url) as second:
        put(first, "spec.yaml", "a")
        put(first, "cells/1/result.json", "b")
        put(first, "cells/2/result.json", "c")
        first.save()
        second.fetch("cells/1")
        assert not (second.path / "cells/2").exists()
        second.fetch()
        assert (second.path / "cells/2/result.json").read_text() == "c"
        assert second.read("spec.yaml") == "a"
        assert second.read("nothing") is None
        put(second, "cells/1/result.json", "changed")
        second.save()
        first.fetch("cells/1")
        assert (first.path / "cells/1/result.json").read_text() == "changed"
    assert content(url) == {"spec.yaml": b"a", "cells/1/result.json": b"changed", "cells/2/result.json": b"c"}


def test_only_changed_files_are_uploaded_and_the_record_last(url, monkeypatch):
    uploaded = []
    upload = Store.upload
    monkeypatch.setattr(Store, "upload", lambda self, path, name: (uploaded.append(name), upload(self, path, name)))
    with working_folder(url) as folder:
        names = ["result.json", "checkpoint/state", "adapter/weights", "rounds/worker-0.jsonl"]
        for name in names:
            put(folder, name, "first")
        folder.save()
        assert uploaded[2:] == ["checkpoint/state", "result.json"] and set(uploaded) == set(names)
        folder.save()
        put(folder, "rounds/worker-0.jsonl", "second")
        folder.save()
        assert uploaded[4:] == ["rounds/worker-0.jsonl"]


def test_removed_checkpoints_are_removed_from_the_store_and_other_files_are_not(url):
    with working_folder(url) as folder, working_folder(url) as other:
        put(folder, "checkpoint/state", "1")
        put(folder, "result.json", "2")
        folder.save()
        other.fetch(checkpoints=True)
        assert (other.path / "checkpoint/state").read_text() == "1"
        put(other, "rounds/worker-1.jsonl", "3")
        other.save()
        (folder.path / "checkpoint/state").unlink()
        (folder.path / "result.json").unlink()
        folder.save()
    assert content(url) == {"result.json": b"2", "rounds/worker-1.jsonl": b"3"}


def test_checkpoints_are_fetched_only_on_request(url):
    with working_folder(url) as worker, working_folder(url) as launch:
        put(worker, "cells/1/checkpoint/state", "1")
        worker.save()
        launch.fetch()
        assert not list(launch.path.rglob("state"))
        launch.save()
    assert content(url) == {"cells/1/checkpoint/state": b"1"}


def test_removing_the_copy_removes_nothing_from_the_store(url):
    with working_folder(url) as folder:
        put(folder, "cells/1/result.json", "1")
        folder.save()
        shutil.rmtree(folder.path)
        with pytest.raises(StorageError, match="was removed"):
            folder.save()
    assert content(url) == {"cells/1/result.json": b"1"}


def test_markers_of_empty_folders_are_not_files(bucket, tmp_path):
    files, root = fsspec.url_to_fs(bucket)
    for name in ("runs/mine/", "runs/mine/cells/", "runs/mine/cells/1/result.json"):
        files.pipe_file(f"{root}/{name}", b"" if name.endswith("/") else b"1")
    with working_folder(f"{bucket}/runs/mine") as folder:
        folder.fetch()
        assert [path.name for path in folder.path.rglob("*") if path.is_file()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(f"file://{tmp_path}/store")
    store.write("state", b"old")
    broken = type(store._files)
    monkeypatch.setattr(broken, "mv", lambda *_: (_ for _ in ()).throw(OSError("the line is cut")))
    with pytest.raises(StorageError, match=r"state cannot be reached .OSError: the line is cut"):
        store.write("state", b"new")
    assert store.read("state") == b"old"


@pytest.mark.parametrize(
    "url", ["file://runs", "simplecache::s3://bucket/runs", "memory://runs", "s3://", "s3://[x", "nfs4://host/runs"]
)
def test_urls_that_cannot_be_shared_storage_are_rejected(url):
    with pytest.raises(BadRequestError, match="storage '"):
        Store(url)


def test_hidden_files_are_neither_fetched_nor_saved(url):
    with working_folder(url) as folder:
        folder.store.write(HOLDER, b"theirs")
        put(folder, ".result.17.json", "half")
        folder.fetch()
        folder.save()
        assert not (folder.path / HOLDER).exists()
    assert content(url) == {HOLDER: b"theirs"}


def test_the_copy_is_removed_at_the_end(url):
    with working_folder(url) as folder:
        put(folder, "a", "1")
    assert not folder.path.exists()


def test_a_folder_is_used_without_a_copy(tmp_path):
    with working_folder(str(tmp_path)) as folder:
        put(folder, "a/b", "1")
        folder.fetch()
        folder.save()
        assert (folder.path, folder.within("a", "b")) == (tmp_path, str(tmp_path / "a" / "b"))
        assert folder.read("a/b") == "1"
    assert (tmp_path / "a" / "b").exists()


def test_a_name_outside_of_the_copy_is_rejected(bucket, tmp_path):
    files, root = fsspec.url_to_fs(bucket)
    files.pipe_file(f"{root}/runs/evil/../../../escaped", b"x")
    with working_folder(f"{bucket}/runs/evil") as folder, pytest.raises(StorageError, match="a path outside of it"):
        folder.fetch()


def test_a_folder_that_can_be_written_passes_and_nothing_is_created(tmp_path):
    WorkingFolder("runs/demo", tmp_path / "runs" / "demo").check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/nowhere/runs", "file", "file/runs"])
def test_a_folder_that_cannot_be_written_is_a_bad_request(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadRequestError, match=r"output folder .* cannot be written: "):
        WorkingFolder(folder, tmp_path / folder).check()


def test_a_store_that_answers_passes(url):
    with working_folder(url) as folder:
        folder.check()


def test_a_store_that_never_answers_is_a_bad_request(monkeypatch):
    monkeypatch.setattr(storage, "LONGEST_WAIT", 0.5)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    with silent_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with working_folder("s3://bucket/runs") as folder, pytest.raises(BadRequestError, match="s3://bucket/runs"):
            folder.check()
