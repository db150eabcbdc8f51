"""Malicious or absurd sweep files are rejected with a one-line error and never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bounded import bounded_memory, check_one_line, name_of

from adapad_ray import safe_regex
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.inputs import sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec_file import load_spec

CANARY = "adapad-canary"

NAMES = [
    "../up", "/etc/adapad", "a/b", "..", ".", "a\x00b", "a\nb", "", "-rf", "x" * 300, "~root", "C:\\x", ".hidden",
    "a b",
]  # fmt: skip
LABELS = [
    "../lora",
    "lora/../x",
    "lora/..",
    "lora/a/b",
    "lora\n",
    "__class__",
    "lora/{}",
    "lora;rm",
    "/lora",
    "lor\u00e4",
]
NUMBERS: list[dict[str, Any]] = [
    {"seeds": [10**30]}, {"seeds": [-1]}, {"seeds": [2**63]}, {"seeds": [0.5]}, {"seeds": []},
    {"seeds": list(range(400)), "budgets": list(range(1, 400))},
    {"budgets": [float("inf")]}, {"budgets": [float("nan")]}, {"budgets": [-5]}, {"budgets": [0]}, {"budgets": [True]},
    {"budgets": ["9" * 5000]}, {"budgets": ["1e999"]}, {"budgets": ["10**9"]}, {"budgets": ["1" * 400 + "%"]},
    {"training": {"epochs": 1e300}}, {"training": {"epochs": float("inf")}}, {"training": {"batch_size": 10**12}},
    {"training": {"max_length": 10**12}}, {"training": {"learning_rate": float("nan")}},
    {"training": {"evaluation_batch_size": 10**15}}, {"training": {"max_train_examples": 10**40}},
    {"tune": {"trials": 10**12, "budget": 1000, "space": {"learning_rate": {"log": [1e-4, 1e-2]}}}},
    {"tune": {"budget": 1000, "space": {"learning_rate": {"log": [1e-400, 1e400]}}}},
    {"tune": {"budget": 1000, "space": {"learning_rate": {"int": [10**40, 10**41]}}}},
    {"mode": "search", "search": {"trials": 10**18, "space": {"budget": {"log": [1000, 2000]}}}},
    {"resources": {"workers": 10**30}}, {"resources": {"cpus_per_worker": 1e-320}},
    {"delta": 5}, {"checkpoint": {"seconds": float("nan")}}, {"max_attempts": 0},
    {"methods": {"lora": {"rank": 10**12}}}, {"methods": {"adapad": {"r_max": -1}}},
    {"model": "linear", "task": {"type": "bilinear", "in_features": 10**9, "out_features": 10**9, "examples": 10**9}},
    {"model": "linear", "task": {"type": "bilinear", "in_features": 10**5, "out_features": 10**5, "examples": 10**5}},
]  # fmt: skip
PATTERNS = [
    r"(?:([\w.])|([\w.]))*[0-9]", r"(\w+\.?)+!", r"((.*)*)*x!", r"(\w|\w\w|\w\w\w)+\.!",
    "(" * 250 + "a" + ")" * 250 + "[", "(", "[", "*", "(?P<", "a" * 5000, "x{99999999999999999999}", "(?<=a+)b(?R)",
    "\\",
]  # fmt: skip
PATHS: list[dict[str, Any]] = [
    {"model": "/etc"}, {"model": "../../../etc"}, {"model": "x" * 10_000}, {"model": "a\x00b"}, {"model": "/dev/zero"},
    {"task": {"train": "/dev/zero"}}, {"task": {"train": "/etc/passwd"}}, {"task": {"train": "/proc/self/environ"}},
    {"task": {"train": "../../nowhere.csv"}}, {"task": {"train": "a\x00b.csv"}}, {"task": {"train": "x" * 5000}},
    {"task": {"train": "http://127.0.0.1:9/x.csv"}}, {"task": {"train": "/"}}, {"task": "../../etc/passwd"},
    {"tracking": "http://ann:s3cret@mlflow:5000"}, {"tracking": "postgresql://ann:s3cret@db/mlflow"},
]  # fmt: skip
TYPES: list[Any] = [
    {"methods": []}, {"methods": {"lora": 3}}, {"methods": {"lora": {"__class__": 1}}}, {"methods": {}},
    {"budgets": {"a": 1}}, {"training": "fast"}, {"target_modules": 3}, {"target_modules": []}, {"unknown": {"x": 1}},
    {1: 2}, {None: 1}, {"resources": []}, {"pooling": "{{7*7}}"},
]  # fmt: skip


def bomb(opening: str, closing: str, item: str) -> str:
    """An alias bomb: nine aliases of nine aliases and so on, a billion values in half a kilobyte."""
    lines = [f"a0: &a0 {opening}{item}{closing}"]
    for level in range(1, 10):
        parts = ", ".join(item.replace("boom", f"*a{level - 1}") if ":" in item else f"*a{level - 1}" for _ in range(9))
        if ":" in item:
            parts = ", ".join(f"k{i}: *a{level - 1}" for i in range(9))
        lines.append(f"a{level}: &a{level} {opening}{parts}{closing}")
    return "\n".join(lines)


DOCUMENTS: list[str | bytes] = [
    bomb("[", "]", "boom"),
    bomb("{", "}", "k: boom"),
    bomb("[", "]", "boom") + "\nbudgets: *a9\nmodel: m\ntask: t\nmethods: {lora: {}}",
    bomb("{", "}", "k: boom") + "\nmodel: m\ntask: *a9\nmethods: {lora: {}}\nbudgets: [1]",
    "a: &a [*a]",
    "a: &a {b: *a}",
    "[" * 20_000,
    "{a: " * 5000,
    "- " * 20_000 + "x",
    "a: " + "9" * 20_000,
    "a: " + "1:" * 20_000 + "1",
    "a: 0x" + "f" * 20_000,
    "a: !!python/object/apply:os.system ['touch CANARY']",
    "a: !!python/object/new:subprocess.Popen [[touch, CANARY]]",
    "a: !!python/name:os.system",
    "a: !!python/module:os",
    "!!python/object/apply:eval [\"open('CANARY', 'w')\"]",
    "a: 2024-99-99",
    "a: !!int abc",
    "a: !!float x",
    "a: !!bool maybe",
    "a: !!timestamp never",
    "a: !!binary '%%%'",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "<<: 3",
    "<<: [*x]",
    "a: 1\n---\nb: 2",
    "a: \x00",
    "\t- a",
    "%YAML 9.9\n---\na: 1",
    "just text",
    "- a\n- b",
    "",
    "x" * 300_000,
    "a: [" + "1, " * 90_000 + "1]",
    b"\xff\xfe\x00\x00",
    b"a: \xc3\x28",
]
OVERRIDES = ["__class__.x=1", "=1", "nothing", "methods.lora.__init__=1", "seeds=&a [*a]", "training=5", "model.x=1",
             "budgets=!!python/name:os.system", "seeds=[" + "1," * 110_000 + "1]", "name=../x"]  # fmt: skip


@pytest.fixture
def base(tiny_model: Path, reviews: Path) -> dict[str, Any]:
    task = {"train": str(reviews), "text": "review", "label": "stars"}
    methods, training = {"lora": {}}, {"max_length": 32}
    return {"model": str(tiny_model), "task": task, "methods": methods, "budgets": [2000], "training": training}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A shorter time limit for patterns, and an empty current folder."""
    monkeypatch.setattr(safe_regex, "MATCHING_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*CANARY*"))


def reject(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """Checks that planning the sweep raises a one-line error, as `adapad plan` and `adapad sweep` do."""
    with bounded_memory(), pytest.raises(BadRequestError) as caught:
        spec = load_spec(path, overrides)
        plan_sweep(CellFactory(spec, sketch_inputs(spec)))
    check_one_line(caught.value)


def write(folder: Path, content: dict[Any, Any]) -> Path:
    if isinstance(content["training"], dict):
        content["training"].setdefault("max_length", 32)
    path = folder / "hostile.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_harmless_file_is_accepted(base, tmp_path):
    spec = load_spec(write(tmp_path, base))
    assert plan_sweep(CellFactory(spec, sketch_inputs(spec)))


@pytest.mark.parametrize("name", NAMES, ids=name_of)
def test_names_that_leave_the_folder_or_are_not_names(name, base, tmp_path):
    reject(write(tmp_path, base | {"name": name}))


@pytest.mark.parametrize("label", LABELS, ids=name_of)
def test_labels_that_are_paths_or_code(label, base, tmp_path):
    reject(write(tmp_path, base | {"methods": {label: {}}}))


@pytest.mark.parametrize("change", NUMBERS, ids=name_of)
def test_numbers_out_of_range(change, base, tmp_path):
    reject(write(tmp_path, base | change))


@pytest.mark.parametrize("pattern", PATTERNS, ids=name_of)
def test_patterns_that_never_end_or_are_invalid(pattern, base, tmp_path):
    reject(write(tmp_path, base | {"target_modules": pattern}))
    reject(write(tmp_path, base | {"methods": {"lora": {"rank_pattern": {pattern: 1}}}}))


@pytest.mark.parametrize("change", PATHS, ids=name_of)
def test_paths_and_addresses_that_are_not_the_users(change, base, tmp_path):
    reject(write(tmp_path, base | change))


@pytest.mark.parametrize("change", TYPES, ids=name_of)
def test_values_of_the_wrong_type(change, base, tmp_path):
    reject(write(tmp_path, base | change))


@pytest.mark.parametrize("text", DOCUMENTS, ids=name_of)
def test_documents_that_are_bombs_or_code_or_not_yaml(text, tmp_path):
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    reject(path)


@pytest.mark.parametrize("override", OVERRIDES, ids=name_of)
def test_overrides_that_are_invalid(override, base, tmp_path):
    reject(write(tmp_path, base), (override,))
