"""Uploading an exported adapter, to a stub of the Hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from small_tasks import compute, spec_of, write_models, write_questions
from typer.testing import CliRunner

from adapad_ray.cli import app

TOKEN = "hf_of_this_test"


class Hub(BaseHTTPRequestHandler):
    """Creates repositories and takes one commit, as far as huggingface_hub asks for it."""

    requests: ClassVar[list[tuple[str, str | None]]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.requests.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            created = json.loads(body)
            address = f"http://{self.headers['Host']}/{created['organization']}/{created['name']}"
            return self._answer({"url": address})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            address = f"http://{self.headers['Host']}/me/mine/commit/0"
            return self._answer({"commitUrl": address, "commitOid": "0" * 40, "success": True})
        return self._answer({})

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers.get("Authorization")))
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub():
    """The address of a stub, and what it was asked for."""
    handler = type("Handler", (Hub,), {"requests": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    data, models = write_questions(tmp_path_factory.mktemp("data")), write_models(tmp_path_factory.mktemp("models"))
    changes = {"methods": {"lora": {}}, "training": {"epochs": 0.2, "max_length": 32}}
    compute(spec_of("regression", models, data, **changes), folder)
    return folder, models["encoder"]


def push(sweep, to, address, token=TOKEN, name="me/mine"):
    """The finished process of `adapad export … --push-to-hub`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HOME": str(to.parent / "hf")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    arguments = ["export", str(sweep), "--method", "lora", "--budget", "28 ranks", "--to", str(to)]
    program = "from adapad_ray.cli import app; app()"
    command = [sys.executable, "-c", program, *arguments, "--push-to-hub", name]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_folder_is_uploaded_as_one_commit_without_paths_of_this_machine(sweep, hub, tmp_path):
    folder, base = sweep
    address, seen = hub
    done = push(folder, tmp_path / "out", address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{address}/me/mine"
    local = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "adapad.json", "README.md", "tokenizer.json"} <= local
    assert seen.files.keys() == local
    assert sum("/commit/" in path for path, _ in seen.requests) == 1
    config = json.loads(seen.files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "encoder" != base
    assert not any(base.encode() in content for content in seen.files.values())
    weights = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert seen.files["adapter_model.safetensors"] == weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": "hf_of_another"}, "me/mine cannot be uploaded to http://127.0.0.1"),
        ({"token": ""}, "nobody is logged in to the Hub"),
        ({"name": "a name"}, "is no name of the Hub"),
        ({"address": "http://127.0.0.1:9"}, "me/mine cannot be uploaded to http://127.0.0.1:9"),
    ],
    ids=["rejected", "logged out", "name", "unreachable"],
)
def test_what_keeps_it_from_being_uploaded_is_one_sentence(sweep, hub, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", changes.get("address", hub[0]))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", changes.get("token", TOKEN))
    arguments = ["export", str(sweep[0]), "--method", "lora", "--budget", "28 ranks", "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--push-to-hub", changes.get("name", "me/mine")])
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_nothing_is_uploaded_without_being_asked(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("adapad_ray.deployment.hub.push_to_hub", None)
    arguments = ["export", str(sweep[0]), "--method", "lora", "--budget", "28 ranks", "--to", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
