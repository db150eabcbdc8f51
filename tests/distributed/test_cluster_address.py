"""An address that no cluster can be reached at is one sentence, without starting or joining anything."""

import pytest
from ray._private.authentication.authentication_token_setup import generate_and_save_token

from adapad_ray.distributed import cluster_address, ray_internals
from adapad_ray.distributed.cluster_address import find_cluster
from adapad_ray.errors import BadRequestError
from tests.ports import free_port, silent_server


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray would set it, for the tests that follow too


def problem(address):
    with pytest.raises(BadRequestError) as caught:
        find_cluster(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("address", [None, "", " ", "local"])
def test_without_an_address_a_local_cluster_is_started(address):
    assert find_cluster(address) is None


def test_a_port_that_nobody_listens_on(monkeypatch):
    port = free_port()
    assert f"answers at '127.0.0.1:{port}' (Connection refused)" in problem(f"127.0.0.1:{port}")
    assert "(Connection refused)" in problem(f"[::1]:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert f"'127.0.0.1:{port}'" in problem(None)


def test_a_server_that_accepts_connections_and_never_answers(monkeypatch):
    monkeypatch.setattr(cluster_address, "LONGEST_PROBE", 0.5)
    with silent_server() as port:
        assert "(no answer within 0.5 seconds)" in problem(f"127.0.0.1:{port}")


def test_a_cluster_without_a_node_on_this_machine(monkeypatch):
    monkeypatch.setattr(cluster_address, "_is_node_of", lambda host, port: (host, port) != ("10.0.0.1", 6379))
    assert "use `adapad submit`" in problem("10.0.0.1:6379")
    assert find_cluster("10.0.0.2:6379") == "10.0.0.2:6379"


def test_auto_without_a_cluster_on_this_machine(monkeypatch):
    monkeypatch.setattr(cluster_address, "address_on_this_machine", lambda: None)
    assert "no Ray cluster runs on this machine" in problem("auto")


def test_auto_with_the_address_of_a_cluster_that_has_ended(monkeypatch):
    port = free_port()
    monkeypatch.setattr(cluster_address, "address_on_this_machine", lambda: f"127.0.0.1:{port}")
    assert "(Connection refused)" in problem("auto")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("http://10.0.0.1:8265", "`adapad submit --address http://10.0.0.1:8265`"),
        ("https://ray.example", "`adapad submit --address https://ray.example`"),
        ("ray://10.0.0.1:10001", "`adapad submit --address http://10.0.0.1:8265`"),
    ],
)
def test_addresses_of_other_services_of_a_cluster(address, remedy):
    assert remedy in problem(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.1:", ":6379", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:ray"])
def test_what_is_no_address(address):
    assert f"{address!r} is not the address of a cluster: it is host:port" in problem(address)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/tmp/" + "long/" * 20, "a name too long for them"),
        ("/proc/nowhere", r"cannot write to /proc/nowhere/ray \(No such file or directory\)"),
    ],
)
def test_a_folder_in_which_ray_could_not_start(folder, message, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(BadRequestError, match=message):
        find_cluster()


def test_a_port_that_another_process_has_taken(monkeypatch):
    with silent_server() as port:
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", str(port))
        with pytest.raises(BadRequestError, match=f"listen on port '{port}' .*in use.*: unset RAY_GCS"):
            find_cluster()


def test_a_home_folder_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray_internals, "ensure_token_if_auth_enabled", generate_and_save_token)  # there is no token yet
    with pytest.raises(BadRequestError, match=r"cannot store its token in the home folder .*/proc/nowhere"):
        find_cluster()
