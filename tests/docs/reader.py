"""Types the blocks of Python of one page in their order, in one folder and with one set of names.

Tiny models and few steps stand in for those on the page.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import transformers
from datasets import Dataset

from adapad_ray.methods import METHODS
from adapad_ray.report import sections
from adapad_ray.tasks.encoding.texts import assumed_texts, encode_texts
from adapad_ray.tasks.registry import TYPES
from adapad_ray.testing import word_tokenizer
from tests.docs.snippets import Block, blocks

SMALLER = {
    '"100k"': "1792",
    '"10.4k", 41472': "1792, 2688",
    "epochs=3": "epochs=1, max_length=32",
    "steps=300": "steps=5",
    '"training.epochs": 2}': '"training.epochs": 2, "reference": False, "training.max_train_examples": 64}',
    '("my-adapter", ["A quiet, moving film."])': '("my-adapter", ["A quiet, moving film."], max_length=32)',
    '"budgets"': '"training": {"max_length": 32},\n    "budgets"',
}
"""Words of a page → those that run in seconds."""
MODULES = {
    "class Mine(": "adapad_ray.methods.mine",
    "class TrainingTime(": "adapad_ray.report.sections.training_time",
    "class BalancedAccuracy(": "adapad_ray.tasks.metrics.balanced_accuracy",
    "class Count(": "adapad_ray.tasks.types.count",
}
"""Words of a block → the module that it is the file of."""
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "adapad_ray/report/README.md": {"Section": sections.Section, "Costs": sections.Costs, "pd": pd},
    "adapad_ray/tasks/README.md": {"np": np, "replace": replace}
    | {"encode_texts": encode_texts, "assumed_texts": assumed_texts},
}
"""Page → names that its text says are there."""
HEAD = "import pytest\nfrom adapad_ray.testing import COST_PER_RANK, MethodCase, MethodConformance\n"
"""Of a file of tests to which a block is added."""


class Reader:
    """Types the blocks of a page.

    Args:
        folder: where the page's relative paths begin.
        patch: undoes what the blocks register.
        changes: words of the page that are replaced, beside `SMALLER`.
        given: names that the page's text says are there, beside `GIVEN`.
    """

    def __init__(
        self,
        page: str,
        folder: Path,
        patch: pytest.MonkeyPatch,
        changes: Mapping[str, str],
        given: Mapping[str, Any],
    ) -> None:
        self.names = {**GIVEN.get(page, {}), **given}
        self._folder, self._patch, self._changes = folder, patch, {**SMALLER, **changes}
        self._waiting = [block for block in blocks("python") if block.page == page and block.reason is None]

    def type_until(self, block: Block) -> None:
        """Runs the blocks up to this one, each once."""
        while block in self._waiting:
            self._type(self._waiting.pop(0))

    def _type(self, block: Block) -> None:
        text = block.text
        for old, new in self._changes.items():
            text = text.replace(old, new)
        if "def test_" in text or "class Test" in text:
            return self._test(text)
        names = self.names
        for words, module in MODULES.items():
            if words in text:
                self._patch.setitem(sys.modules, module, types.ModuleType(module))
                names = vars(sys.modules[module])
        if '.save("my-adapter")' in text or '.export("my-adapter")' in text:
            shutil.rmtree(self._folder / "my-adapter", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self._folder)
            exec(compile(text, str(block), "exec"), names)
        self.names |= names
        for words, use in USES.items():
            if words in text:
                use(self.names, self._patch)

    def _test(self, text: str) -> None:
        """Runs a block of tests as pytest does, in this process, which has the modules of earlier blocks."""
        file = self._folder / "test_block.py"
        file.write_text(text if text.startswith('"""') else HEAD + text)
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull, "--rootdir", str(self._folder)]
        if "MethodConformance" in text:
            options += ["-k", "untouched or within or bad_request"]  # all of them take half a minute
        assert pytest.main([str(file), "--import-mode=importlib", *options]) == pytest.ExitCode.OK


def loop_of(model: Path, table: pd.DataFrame) -> dict[str, Any]:
    """What the loops of the Python page are given: batches, or data and what collates them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = [{**tokenizer(text), "labels": int(stars == "up")} for text, stars in table.itertuples(index=False)]
    collate = transformers.DataCollatorWithPadding(tokenizer)
    batches = [collate(rows[start : start + 8]) for start in range(0, 40, 8)]
    examples = [{"prompt": "what colour has", "completion": " the cat"}] * 40
    data = {"data": Dataset.from_list(rows), "examples": Dataset.from_list(examples)}
    return {"batches": batches, "collate": collate, **data}


def _register_method(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    patch.setitem(METHODS, "mine", names["Mine"])


def _register_task(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TYPES, "count", names["Count"]())


def _balanced_accuracy(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.standard_normal((60, 3)), draw.integers(3, size=60)
    metric = names["BalancedAccuracy"]()
    expected = sklearn.metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert metric.value(metric.features(logits, labels).mean(0)) == pytest.approx(expected, abs=1e-12)


def _sections(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    assert names["SECTIONS"] == (names["Costs"], names["TrainingTime"])


def _plot(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    plot = names["seconds_plot"](pd.DataFrame({"label": ["lora"], "seconds": [41.0]}))
    assert [control.name for control in plot.controls] == ["axis"] and "scale" in plot.spec["encoding"]["x"]


def _label_sets(names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    kind, tokenizer = types.SimpleNamespace(label_type=np.float32), word_tokenizer(["good", "film"])
    frame = pd.DataFrame({"text": ["good", "good film"], "label": [(0, 1, 1), (1, 0, 0)]})
    encoded = names["encode_split"](kind, None, frame, "train", tokenizer, 8)
    assert encoded.labels.tolist() == frame["label"].map(list).tolist()
    assumed = names["assume_split"](kind, types.SimpleNamespace(classes=3), 5, 8, tokenizer)
    assert assumed.make(5)["labels"].shape == (5, 3)


USES: dict[str, Callable[[dict[str, Any], pytest.MonkeyPatch], None]] = {
    "class Mine(": _register_method,
    "class Count(": _register_task,
    "class BalancedAccuracy(": _balanced_accuracy,
    "SECTIONS: tuple": _sections,
    "def seconds_plot(": _plot,
    "LabelSetSource": _label_sets,
}
"""Words of a block → what is done with the names that it defines."""
