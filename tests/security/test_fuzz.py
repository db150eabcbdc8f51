"""Sweep files and adapters with random damage are read or rejected with a one-line error.

Set `ADAPAD_FUZZ_EXAMPLES=200000` for a long run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from bounded import bounded_memory, check_one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapad_ray.adapters.load import load_adapter
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_file import load_spec, parse_spec

SHORT = int(os.environ.get("ADAPAD_FUZZ_EXAMPLES", "60"))
fuzz = settings(
    max_examples=SHORT, deadline=None, derandomize=SHORT < 1000, suppress_health_check=list(HealthCheck), database=None
)

SPEC: dict[str, Any] = {
    "name": "fuzzed",
    "model": "minilm-l6",
    "task": {"type": "classification", "train": "a.csv", "text": "review", "label": "stars"},
    "target_modules": ["query"],
    "methods": {"lora": {"rank": 2, "rank_pattern": {"query": 1}}, "adapad/x": {"local_steps": 2}},
    "budgets": ["10.4k", 41472, "0.5%"],
    "seeds": [0, 1],
    "training": {"epochs": 1, "learning_rate": 2e-3},
    "tune": {"trials": 2, "budget": 41472, "space": {"learning_rate": {"log": [1e-4, 1e-2]}}},
    "resources": {"workers": 2},
    "storage": "runs",
    "tracking": "sqlite:///mlflow.db",
}

words = st.sampled_from(
    ["", "x", "lora", "../x", "\x00", "0x1f", "1e400", "50%", "all-linear", "(a+)+", "null", "é" * 50]
)
numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.integers(-(10**40), 10**40)
values = st.recursive(
    numbers | words | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def value_paths(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a document."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [inner for key, value in pairs for inner in value_paths(value, (*path, key))]


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """The spec with up to three values replaced, removed or added."""
    content = json.loads(json.dumps(SPEC))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(value_paths(content) or [("name",)]))
        holder = content
        for key in parents:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                holder[last] = draw(values)
            case "remove":
                del holder[last]
            case _ if isinstance(holder, dict):
                holder[draw(words)] = draw(values)
            case _:
                holder.append(draw(values))
    return content


def accept_or_reject(read: Any) -> Any:
    try:
        return read()
    except BadRequestError as error:
        check_one_line(error)


@fuzz
@given(changed())
def test_changed_specs(content):
    spec = accept_or_reject(lambda: parse_spec(content))
    if spec is not None and spec.name:  # without a name it takes the file's, and there is no file here
        assert SweepSpec.model_validate(spec.model_dump(mode="json")) == spec, "the form that a sweep's folder stores"


@fuzz
@given(data=st.data())
def test_damaged_text(data, tmp_path_factory):
    """Parts of the file are replaced by characters with a meaning in YAML."""
    text = yaml.safe_dump(SPEC)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.text("&*!|>%@`[]{},:?-#'\"\n\t 0159eax.~<=\\", max_size=8)) + text[end:]
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(text)
    accept_or_reject(lambda: load_spec(path))


def adapter_files(folder: Path) -> dict[str, bytes]:
    prefix = "base_model.model.layer.0.query"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "rank_pattern": {"0.query": 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    factors = {f"{prefix}.lora_A.weight": torch.ones(2, 4), f"{prefix}.lora_B.weight": torch.ones(3, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz
@given(data=st.data())
def test_damaged_adapters(data, tmp_path_factory):
    """Bytes of both files are replaced, removed or added."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed-adapter"
    folder.mkdir(exist_ok=True)
    files = adapter_files(folder)
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    (folder / name).write_bytes(content)
    with bounded_memory():
        accept_or_reject(lambda: load_adapter(folder))
