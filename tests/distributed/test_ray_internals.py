"""What is done about Ray's own limits, without a cluster."""

import pytest
import ray

from adapad_ray.distributed.ray_internals import init_local
from adapad_ray.errors import BadRequestError

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
    init_local({"address": "local"})
    assert calls == [{"address": "local"}] * 2


def test_a_machine_that_is_too_slow_twice_is_a_bad_request(monkeypatch):
    calls = init_that_raises(monkeypatch, Exception(TIMED_OUT), Exception(TIMED_OUT))
    with pytest.raises(BadRequestError, match="overloaded"):
        init_local({"address": "local"})
    assert len(calls) == 2


def test_other_errors_are_raised_at_once(monkeypatch):
    calls = init_that_raises(monkeypatch, ValueError("num_cpus"))
    with pytest.raises(ValueError, match="num_cpus"):
        init_local({"address": "local"})
    assert len(calls) == 1
