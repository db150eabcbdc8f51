"""An address at which no job server of Ray answers."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.submit import job_server
from adapad_ray.submit.job_server import JobServer
from tests.ports import free_port, page_server, silent_server


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "127.0.0.1:{port}", "http://nowhere.invalid:8265"])
def test_a_server_that_is_down(address):
    with pytest.raises(BadRequestError, match="no Ray job server answers at http://"):
        JobServer(address.format(port=free_port()))


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(job_server, "_LONGEST_WAIT", 0.3)
    with silent_server() as port, pytest.raises(BadRequestError, match="no Ray job server answers"):
        JobServer(f"127.0.0.1:{port}")


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_server_of_something_else(status):
    with page_server(status) as port:
        with pytest.raises(BadRequestError, match=r"the Ray job server at .* cannot be used") as caught:
            JobServer(f"127.0.0.1:{port}")
        assert "\n" not in str(caught.value)
