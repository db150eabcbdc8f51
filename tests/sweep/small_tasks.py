"""Small tasks of every type, tiny models of the real architectures, and sweeps of them in this process, without Ray."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as token_models

from adapad_ray.files import write_text
from adapad_ray.results import CellResult
from adapad_ray.safe_yaml import write_yaml
from adapad_ray.sweep.folder import RECORDED_SPEC
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell

WORDS = ["red", "green", "blue", "black", "white", "pink", "cat", "dog", "cow", "hen", "fox", "owl"]
COLOURS, ANIMALS = WORDS[:6], WORDS[6:]
GLUE = ["the", "is", "what", "colour", "has", ".", "?", ":", "a", "or", "yes", "no"]


def questions(count: int, seed: int, *, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Contexts like `the cat is red . the dog is blue .` and questions of a colour."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        animals = draw.sample(ANIMALS, 2)
        colours = draw.sample(COLOURS, 2)
        context = " . ".join(f"the {a} is {c}" for a, c in zip(animals, colours, strict=True)) + " ."
        none = unanswerable and draw.random() < 0.3
        asked = draw.choice([a for a in ANIMALS if a not in animals] if none else animals)
        answer = None if none else colours[animals.index(asked)]
        rows.append(
            {
                "context": context,
                "question": f"what colour has the {asked} ?",
                "answers": {
                    "text": [] if answer is None else [answer],
                    "answer_start": [] if answer is None else [context.index(answer)],
                },
                "cold": colours[0] in ("green", "blue", "white"),
                "warmth": (COLOURS.index(colours[0]) + COLOURS.index(colours[1])) / 2,
            }
        )
    return rows


def write_questions(folder: Path) -> Path:
    """The files that `TASKS` name."""
    for name, count, unanswerable in (("train", 300, False), ("test", 60, False), ("train2", 300, True)):
        rows = questions(count, len(name), unanswerable=unanswerable)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_models(folder: Path) -> dict[str, str]:
    """Folders of an encoder and of a decoder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner = Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(special + WORDS + GLUE)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"vocab_size": 28, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.1}
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, model in {
            "encoder": transformers.BertModel(transformers.BertConfig(**sizes)),
            "decoder": transformers.LlamaForCausalLM(
                transformers.LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=True)
            ),
        }.items():
            path = folder / name
            tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
            if name == "encoder":
                inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
            else:
                inner.post_processor = processors.TemplateProcessing(single="$A")
                tokens["eos_token"] = "[SEP]"
            transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **tokens).save_pretrained(
                path
            )
            model.save_pretrained(path)
            found[name] = str(path)
    return found


FILES = {"train": "train.jsonl", "test": "test.jsonl"}
TASKS: dict[str, dict[str, Any]] = {
    "span": {**FILES, "type": "span", "stride": 4, "max_question": 8, "max_answer": 2},
    "span 2.0": {**FILES, "type": "span", "train": "train2.jsonl", "stride": 4, "max_question": 8, "max_answer": 2},
    "regression": {
        **FILES,
        "type": "regression",
        "text": "context",
        "label": "warmth",
        "further_tests": {"again": "test.jsonl", "absent": "absent.jsonl"},
    },
    "choice": {
        **FILES,
        "type": "choice",
        "prompt": "{context} a or :",
        "label": "cold",
        "words": {"true": "yes", "false": "no"},
    },
    "generation": {
        **FILES,
        "type": "generation",
        "prompt": "{context} {question}",
        "answer": "answers",
        "max_new_tokens": 3,
        "metric": "answer_f1",
    },
    "chat": {
        **FILES,
        "type": "chat",
        "instruction": "question",
        "input": "context",
        "output": "answers",
        "chat_template": "plain",
        "max_new_tokens": 3,
        "metric": "answer_f1",
    },
}
HEADLESS = ("choice", "generation", "chat")
DECIDING = {
    "span": "answer_f1",
    "span 2.0": "answer_f1",
    "regression": "pearson_spearman",
    "choice": "accuracy",
    "generation": "answer_f1",
    "chat": "answer_f1",
}


def spec_of(task: str, models: dict[str, str], data_dir: Path, **changes: Any) -> Any:
    model = models["decoder" if task in HEADLESS else "encoder"]
    content = {
        "name": task.split()[0],
        "model": model,
        "task": TASKS[task],
        "data_dir": str(data_dir),
        "methods": {"lora": {}, "adapad": {"initial_rank": 0}},
        "budgets": ["28 ranks"],
        "seeds": [0],
        "training": {"epochs": 4, "batch_size": 16, "max_length": 32, "learning_rate": 1e-2},
    }
    return parse_spec(content | changes)


def compute(spec: Any, folder: Path) -> dict[str, CellResult]:
    """Every cell of a sweep in this process, by label; recipe and data go the way that they take to a worker."""
    loaded = load_inputs(spec)
    cells = CellFactory(spec, loaded.inputs)
    recipe, data = pickle.loads(pickle.dumps((loaded.recipe, loaded.inputs.data)))
    workspace = Workspace(recipe.load(), data)
    results: dict[str, CellResult] = {}
    for wave in CurveCells(cells, plan_sweep(cells)).waves(None, results):
        for planned in wave:
            request = CellRequest(planned.id, planned.cell.identity, planned.cell.folder(folder), spec.model)
            result = run_cell(request, workspace)
            assert result is not None
            results[planned.id] = result
    write_text(folder / RECORDED_SPEC, write_yaml(spec.model_dump(mode="json")))
    labels = {result.id: result.identity.label for result in results.values()}
    Manifest(spec.name, labels, [], [], spec.delta, "", splits=dict(loaded.inputs.data.sizes), units=cells.units).save(
        folder
    )
    return {result.identity.label: result for result in results.values()}
