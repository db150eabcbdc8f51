"""Untrusted adapters: damaged, absurd or executable content is rejected with a one-line error and never run."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bounded import bounded_memory, check_one_line
from safetensors.torch import load_file, save_file

from adapad_ray import safe_regex
from adapad_ray.adapters.load import load_adapter
from adapad_ray.errors import BadRequestError

PREFIX = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none"}
MODULES = [f"encoder.layer.{layer}.attention.self.query" for layer in range(2)]
CANARY = "canary"
ENDLESS = r"(?:([\w.])|([\w.]))*[0-9]"


class Program:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (2, 6), "lora_B": (5, 2)}
    return {
        f"{PREFIX}{module}.{factor}.weight": torch.randn(*shape, generator=generator)
        for module in MODULES
        for factor, shape in shapes.items()
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A harmless adapter in the current folder, with a shorter time limit for patterns."""
    monkeypatch.setattr(safe_regex, "MATCHING_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), adapter / "adapter_model.safetensors")
    return adapter


def reject(folder: Path) -> str:
    with bounded_memory(), pytest.raises(BadRequestError) as caught:
        load_adapter(folder)
    check_one_line(caught.value)
    assert not list(folder.parent.rglob(CANARY))
    return str(caught.value)


def header(content: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {f"{PREFIX}{MODULES[0]}.lora_A.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x01",
    "header longer than the file": header({}, length=2**40),
    "header of nearly 2^64 bytes": header({}, length=2**64 - 1),
    "header is no JSON": header(b"{not json"),
    "header is a list": header([1, 2]),
    "header is nested": header(b'{"a":' * 20_000),
    "no tensors": header({}),
    "terabytes promised": header(entry([2**20, 2**20], [0, 2**42])),
    "shape overflows": header(entry([2**62, 2**62], [0, 16]), b"\0" * 16),
    "shape is negative": header(entry([-1, 4], [0, 16]), b"\0" * 16),
    "shape and bytes disagree": header(entry([3, 3], [0, 16]), b"\0" * 16),
    "offsets run backwards": header(entry([2, 2], [16, 0]), b"\0" * 16),
    "offsets beyond the end": header(entry([2, 2], [2**30, 2**30 + 16]), b"\0" * 16),
    "type unknown": header(entry([2, 2], [0, 16], "PICKLE"), b"\0" * 16),
    "pickle": pickle.dumps(Program()),
    "pickle of protocol 0": pickle.dumps(Program(), protocol=0),
    "HTML": b"<html><body>404</body></html>",
    "zeros": b"\0" * 4096,
}

CONFIGS: dict[str, bytes | dict[str, Any]] = {
    "pickle": pickle.dumps(Program()),
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "no JSON": b"r: 2",
    "list": b"[]",
    "binary": b"\xff\xfe\x00",
    "number of many digits": b'{"r": ' + b"9" * 10_000 + b"}",
    "far too long": b'{"r": 2, "x": "' + b"a" * 11_000_000 + b'"}',
    "rank huge": {"r": 10**30},
    "rank negative": {"r": -1},
    "rank zero": {"r": 0},
    "rank real": {"r": 2.5},
    "rank true": {"r": True},
    "rank text": {"r": "2"},
    "alpha NaN": {"lora_alpha": float("nan")},
    "alpha infinite": {"lora_alpha": float("inf")},
    "alpha huge": {"lora_alpha": 1e300},
    "alpha hugely negative": {"lora_alpha": -1e200},
    "alpha pattern huge": {"alpha_pattern": {".*query": 1e250}},
    "rank pattern never ends": {"rank_pattern": {ENDLESS: 2}},
    "alpha pattern never ends": {"alpha_pattern": {ENDLESS: 2.0}},
    "target pattern never ends": {"target_modules": ENDLESS},
    "exclude pattern never ends": {"exclude_modules": ENDLESS},
    "pattern is none": {"rank_pattern": {"(": 2}},
    "pattern recurses": {"target_modules": "(" * 400 + ")" * 400},
    "pattern repeats": {"target_modules": "x{99999999999999999999}"},
    "pattern too long": {"target_modules": "a" * 5000},
    "targets elsewhere": {"target_modules": ["../../etc/passwd"]},
    "targets are objects": {"target_modules": [{"a": 1}]},
    "code to run": {"auto_mapping": None, "custom_code": "import os"},
    "runtime code": {"trust_remote_code": True},
    "another tuner": {"peft_type": "IA3"},
    "tuner is a list": {"peft_type": ["LORA"]},
    "changes base weights": {"init_lora_weights": "pissa"},
    "biases": {"bias": "all"},
    "saved modules missing": {"modules_to_save": ["../classifier"]},
}

CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "NaN": lambda t: {key: value.index_fill(1, torch.tensor([0]), float("nan")) for key, value in t.items()},
    "infinite": lambda t: {key: value / 0 for key, value in t.items()},
    "huge": lambda t: {key: value * 1e30 for key, value in t.items()},
    "integers": lambda t: {key: value.int() for key, value in t.items()},
    "booleans": lambda t: {key: value > 0 for key, value in t.items()},
    "complex": lambda t: {key: value.to(torch.complex64) for key, value in t.items()},
    "one dimension": lambda t: {key: value.flatten() for key, value in t.items()},
    "three dimensions": lambda t: {key: value[None] for key, value in t.items()},
    "empty tensors": lambda t: {key: value[:0] for key, value in t.items()},
    "transposed": lambda t: {key: value.T.contiguous() for key, value in t.items()},
    "only A": lambda t: {key: value for key, value in t.items() if "lora_A" in key},
    "ranks differ": lambda t: {k: v[:1].contiguous() if "lora_A" in k else v for k, v in t.items()},
    "name climbs": lambda t: t | {f"{PREFIX}../../../etc/passwd.lora_A.weight": torch.ones(2, 2)},
    "name is absolute": lambda t: t | {"/etc/passwd": torch.ones(2, 2)},
    "name has no prefix": lambda t: t | {"weight": torch.ones(2, 2)},
    "name has a null": lambda t: t | {f"{PREFIX}a\0b.lora_A.weight": torch.ones(2, 2)},
    "name is very long": lambda t: t | {PREFIX + "a" * 100_000: torch.ones(2, 2)},
    "name is a dunder": lambda t: t | {f"{PREFIX}__class__.__init__.weight": torch.ones(2, 2)},
    "stray tensor": lambda t: t | {f"{PREFIX}encoder.bias": torch.ones(2)},
    "thousands of strays": lambda t: t | {f"{PREFIX}m{i}.weight": torch.ones(1) for i in range(3000)},
}


def test_a_harmless_adapter_is_accepted(folder):
    assert set(load_adapter(folder).factors) == set(MODULES)


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_not_safetensors_or_have_a_false_header(case, folder):
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS[case])
    reject(folder)


@pytest.mark.parametrize("kept", [4, 8, 9, 60, 200, -1, -16])
def test_truncated_weights(kept, folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    reject(folder)


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_are_bombs_or_programs_or_absurd(case, folder):
    content = CONFIGS[case]
    path = folder / "adapter_config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(CONFIG | content).encode())
    message = reject(folder)
    assert ("takes too long" in message) == (case.endswith("never ends"))


@pytest.mark.parametrize("case", CHANGES)
def test_tensors_that_are_not_a_lora(case, folder):
    path = folder / "adapter_model.safetensors"
    save_file(CHANGES[case](load_file(path)), path)
    reject(folder)


def test_a_pickle_under_its_own_name_is_not_opened(folder):
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"weight": Program()}, folder / "adapter_model.bin")
    reject(folder)


def test_a_sparse_file_of_twenty_gigabytes(folder):
    """The header is valid; reading the zeros behind it would fill the memory."""
    rows = 20 * 2**30 // 4
    path = folder / "adapter_model.safetensors"
    path.write_bytes(header(entry([rows, 1], [0, 4 * rows])))
    os.truncate(path, path.stat().st_size + 4 * rows)
    reject(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "loop", "fifo"])
def test_links_and_devices(name, target, folder):
    path = folder / name
    path.unlink()
    if target == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path if target == "loop" else target)
    reject(folder)
