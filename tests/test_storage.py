"""Copies of what lies under a URL, against a real store of files and a server that speaks S3."""

from __future__ import annotations

import shutil

import fsspec
import pytest

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.storage import Store, WorkingFolder, working_folder
from adapad_ray.sweep.lock import HOLDER


def content(url: str) -> dict[str, bytes]:
    """What lies below a URL, read with fsspec alone."""
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
    with working_folder(url) as mine, working_folder(url) as yours:
        put(mine, "spec.yaml", "a")
        put(mine, "cells/1/result.json", "b")
        put(mine, "cells/2/result.json", "c")
        mine.save()
        yours.fetch("cells/1")
        assert not (yours.path / "cells/2").exists()
        yours.fetch()
        assert (yours.path / "cells/2/result.json").read_text() == "c"
        assert yours.read("spec.yaml") == "a"
        assert yours.read("nothing") is None
        put(yours, "cells/1/result.json", "changed")
        yours.save()
        mine.fetch("cells/1")
        assert (mine.path / "cells/1/result.json").read_text() == "changed"
    assert content(url) == {"spec.yaml": b"a", "cells/1/result.json": b"changed", "cells/2/result.json": b"c"}


def test_only_what_has_changed_travels_and_the_record_last(url, monkeypatch):
    sent = []
    send = Store.send
    monkeypatch.setattr(Store, "send", lambda self, path, name: (sent.append(name), send(self, path, name)))
    with working_folder(url) as place:
        names = ["result.json", "checkpoint/state", "adapter/weights", "rounds/worker-0.jsonl"]
        for name in names:
            put(place, name, "first")
        place.save()
        assert sent[2:] == ["checkpoint/state", "result.json"] and set(sent) == set(names)
        place.save()
        put(place, "rounds/worker-0.jsonl", "second")
        place.save()
        assert sent[4:] == ["rounds/worker-0.jsonl"]


def test_a_checkpoint_that_was_removed_here_is_removed_there_and_nothing_else_is(url):
    with working_folder(url) as place, working_folder(url) as other:
        put(place, "checkpoint/state", "1")
        put(place, "result.json", "2")
        place.save()
        other.fetch(checkpoints=True)
        assert (other.path / "checkpoint/state").read_text() == "1"
        put(other, "rounds/worker-1.jsonl", "3")
        other.save()
        (place.path / "checkpoint/state").unlink()
        (place.path / "result.json").unlink()
        place.save()
    assert content(url) == {"result.json": b"2", "rounds/worker-1.jsonl": b"3"}


def test_checkpoints_come_only_to_who_asks_for_them(url):
    with working_folder(url) as worker, working_folder(url) as launch:
        put(worker, "cells/1/checkpoint/state", "1")
        worker.save()
        launch.fetch()
        assert not list(launch.path.rglob("state"))
        launch.save()
    assert content(url) == {"cells/1/checkpoint/state": b"1"}


def test_a_copy_that_somebody_has_removed_takes_nothing_with_it(url):
    with working_folder(url) as place:
        put(place, "cells/1/result.json", "1")
        place.save()
        shutil.rmtree(place.path)
        with pytest.raises(StorageError, match="is gone"):
            place.save()
    assert content(url) == {"cells/1/result.json": b"1"}


def test_what_other_tools_leave_for_empty_folders_is_no_file(bucket, tmp_path):
    files, root = fsspec.url_to_fs(bucket)
    for name in ("runs/mine/", "runs/mine/cells/", "runs/mine/cells/1/result.json"):
        files.pipe_file(f"{root}/{name}", b"" if name.endswith("/") else b"1")
    with working_folder(f"{bucket}/runs/mine") as place:
        place.fetch()
        assert [path.name for path in place.path.rglob("*") if path.is_file()] == ["result.json"]


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
def test_what_is_not_the_same_place_everywhere_is_refused(url):
    with pytest.raises(BadRequestError, match="storage '"):
        Store(url)


def test_hidden_files_stay_where_they_are(url):
    with working_folder(url) as place:
        place.store.write(HOLDER, b"theirs")
        put(place, ".result.17.json", "half")
        place.fetch()
        place.save()
        assert not (place.path / HOLDER).exists()
    assert content(url) == {HOLDER: b"theirs"}


def test_a_copy_is_gone_when_it_is_not_needed_any_more(url):
    with working_folder(url) as place:
        put(place, "a", "1")
    assert not place.path.exists()


def test_a_folder_is_worked_on_as_it_is(tmp_path):
    with working_folder(str(tmp_path)) as place:
        put(place, "a/b", "1")
        place.fetch()
        place.save()
        assert (place.path, place.within("a", "b")) == (tmp_path, str(tmp_path / "a" / "b"))
        assert place.read("a/b") == "1"
    assert (tmp_path / "a" / "b").exists()


def test_a_name_that_leads_out_of_the_copy_is_refused(bucket, tmp_path):
    files, root = fsspec.url_to_fs(bucket)
    files.pipe_file(f"{root}/runs/evil/../../../escaped", b"x")
    with working_folder(f"{bucket}/runs/evil") as place, pytest.raises(StorageError, match="leads out of it"):
        place.fetch()
