"""What is done about a Ray that does not start, without a cluster."""

import signal
import subprocess
import sys

import psutil
import pytest
import ray

from adapad_ray.distributed.ray_start import join_cluster, start_cluster
from adapad_ray.errors import BadRequestError
from adapad_ray.interrupts import interruptible

TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


def init_that_raises(monkeypatch, *errors):
    """Replaces `ray.init` by a function that raises these errors, one per call; returns the list of its calls."""
    calls = []

    def init(**arguments):
        calls.append(arguments)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # other tests of this process may have a cluster
    return calls


def test_a_cluster_that_starts_too_slowly_is_started_once_more(monkeypatch):
    calls = init_that_raises(monkeypatch, Exception(TIMED_OUT))
    start_cluster({"address": "local"})
    assert calls == [{"address": "local"}] * 2


def test_a_machine_that_is_too_slow_twice_is_a_bad_request(monkeypatch):
    calls = init_that_raises(monkeypatch, Exception(TIMED_OUT), Exception(TIMED_OUT))
    with pytest.raises(BadRequestError, match="overloaded"):
        start_cluster({"address": "local"})
    assert len(calls) == 2


def test_other_errors_are_a_bad_request_at_once_in_one_line(monkeypatch):
    calls = init_that_raises(monkeypatch, RuntimeError("the GCS\n  died"))
    with pytest.raises(BadRequestError, match="could not start a local cluster: the GCS died; its logs"):
        start_cluster({"address": "local"})
    assert len(calls) == 1


def test_a_cluster_of_another_version_cannot_be_joined(monkeypatch):
    init_that_raises(monkeypatch, RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0"))
    with pytest.raises(BadRequestError, match=r"'10.0.0.1:6379' cannot be joined: Version .* with: Ray: 2.9.0$"):
        join_cluster("10.0.0.1:6379", {})


def test_an_interrupted_start_leaves_no_process(monkeypatch):
    started = []

    def init(**arguments):
        started.append(subprocess.Popen(["sh", "-c", "sleep 100 & sleep 100"]))  # a raylet and its agent
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = psutil.Process().children(recursive=True)
    with pytest.raises(KeyboardInterrupt):
        start_cluster({"address": "local"})
    assert started and set(psutil.Process().children(recursive=True)) <= set(before)


def test_sigterm_stays_an_interrupt_while_ray_starts(monkeypatch):
    def init(**arguments):
        ray._private.utils.set_sigterm_handler(lambda *_: sys.exit(15))  # as ray.init does
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(KeyboardInterrupt), interruptible():
        start_cluster({"address": "local"})
