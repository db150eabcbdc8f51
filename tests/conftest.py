"""A tiny real model and a small data set on disk, and readable ids of parametrised tests.

Modules that start a Ray cluster belong to one of two balanced xdist groups, `clusters` and `more-clusters`, so that at
most two clusters run at one time. Their processes wait much of the time; a third one runs the other tests meanwhile.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.ports import free_port

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # more processes than two cores: one thread each
    os.environ["OMP_NUM_THREADS"] = "1"
# By default Ray gives its workers the lowest priority, so they would wait for the tests of the other processes.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the groups with clusters first, which take longest, and every other class or module into one process.

    Two processes would make its fixtures and its cached trainings twice. What is in a group gets the mark `cluster`.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    for item in items:
        in_group = item.get_closest_marker("xdist_group") is not None
        item.add_marker(pytest.mark.cluster if in_group else pytest.mark.xdist_group(item.parent.name))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Ids show names and values: `local_steps=2` instead of `config0`, `advance=True` instead of `True`."""
    if isinstance(val, bool | int | float):
        return f"{argname}={val}"
    if isinstance(val, Mapping):
        return ",".join(f"{key}={value}" for key, value in val.items())[:100] or f"{argname}={{}}"
    if isinstance(val, list | tuple) and all(isinstance(item, str | int | float | None) for item in val):
        return f"{argname}=[{','.join(map(str, val))}]"[:100]
    return None


WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "plot", "actor", "scene", "the", "a", "is", "was"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers and hidden size 32 with its tokenizer, randomly initialised, saved by transformers."""
    import torch
    from transformers import BertConfig, BertModel

    from adapad_ray.testing import word_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = word_tokenizer(WORDS)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 reviews of three classes as CSV with columns `review` and `stars`; the words of a review decide its class."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    draw = random.Random(0)
    lines = ["review,stars"]
    for i in range(400):
        stars = ("down", "so-so", "up")[i % 3]
        opinions = {"down": WORDS[3:6], "up": WORDS[:3], "so-so": [WORDS[0], WORDS[3]]}[stars]
        opinion = opinions if stars == "so-so" else draw.choices(opinions, k=2)
        words = opinion + draw.choices(WORDS[6:], k=draw.randint(2, 9))
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {'a ' * (i % 7)},{stars}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a local S3 server (moto)."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert server.poll() is None and time.monotonic() < deadline, "moto's server does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; AWS's environment variables point to the server."""
    import s3fs

    settings = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "eu-west-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


CLUSTER_ENVIRONMENT = {
    # Workers inherit it, and so find the functions of `tests/distributed/pool_jobs.py`.
    "PYTHONPATH": os.pathsep.join(
        [
            str(Path(__file__).parent / "distributed"),
            str(Path(__file__).parents[1]),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ],
    ),
    "RAY_metrics_report_interval_ms": "4000",
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster of two logical CPUs, whatever the machine has; sweeps in this process run on it.

    Starting one for each sweep would cost several seconds of both CPUs.
    """
    from adapad_ray.distributed import connect

    before = {name: os.environ.get(name) for name in CLUSTER_ENVIRONMENT}
    os.environ.update(CLUSTER_ENVIRONMENT)
    try:
        with connect(num_cpus=2, object_store_memory=300_000_000):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
