"""The program on a model card gives the outputs of the training, for every way in which a base model may be loaded."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch
import transformers
from small_tasks import compute
from typer.testing import CliRunner

import adapad_ray as ar
from adapad_ray.adapters.export import ADAPTER_CONFIG
from adapad_ray.cli import app
from adapad_ray.deployment.loading_code import LoadingCode
from adapad_ray.deployment.model_card import loading
from adapad_ray.deployment.prediction import load_exported
from adapad_ray.models import CAUSAL, load_backbone
from adapad_ray.sweep.export import AdapterChoice, export_adapter
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.testing.tiny import word_tokenizer

WORDS = {"good": ["fine", "great", "warm"], "bad": ["dull", "cold", "weak"], "odd": ["blue", "tall", "round"]}
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A CSV of three classes."""
    draw, file = random.Random(0), tmp_path_factory.mktemp("data") / "reviews.csv"
    lines = []
    for _ in range(120):
        stars = draw.choice(list(WORDS))
        lines.append(f"a {draw.choice(WORDS[stars])} {draw.choice(WORDS[stars])} film {draw.random():.6f},{stars}")
    file.write_text("review,stars\n" + "\n".join(lines) + "\n")
    return file


def roberta(**sizes):
    config = transformers.RobertaConfig(**SIZES, intermediate_size=64, max_position_embeddings=66, **sizes)
    return transformers.RobertaForMaskedLM(config)


def gpt2():
    config = transformers.GPT2Config(vocab_size=40, n_embd=32, n_inner=48, n_layer=2, n_head=2, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def two_classes():
    """A checkpoint with a classifier of other classes, in bf16."""
    config = transformers.BertConfig(**SIZES, intermediate_size=64, max_position_embeddings=64, num_labels=2)
    return transformers.BertForSequenceClassification(config).bfloat16()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of small models, by name."""
    place, found = tmp_path_factory.mktemp("models"), {}
    words = ["a", "film", *(word for some in WORDS.values() for word in some)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for make in (roberta, gpt2, two_classes):
            make().save_pretrained(place / make.__name__)
            tokenizer = word_tokenizer(words)
            if make is gpt2:
                tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
            tokenizer.save_pretrained(place / make.__name__)
            found[make.__name__] = str(place / make.__name__)
    return found


def exported(reviews, model, folder, **changes):
    """The folder of an exported lora, and the cell's record."""
    content = {
        "name": "reviews",
        "model": model,
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {"target_modules": changes.pop("targets", "all-linear")}},
        "budgets": ["24 ranks"],
        "seeds": [0],
        "training": {"epochs": 1, "max_length": 24, "learning_rate": 1e-2},
    }
    results = compute(parse_spec(content | changes), folder)
    budget = str(results["lora"].identity.budget)
    warnings = export_adapter(folder, folder / "my-adapter", AdapterChoice("lora", budget)).warnings
    assert warnings == []
    umask = 0o666 & (folder / "spec.yaml").stat().st_mode
    assert {0o666 & path.stat().st_mode for path in (folder / "my-adapter").iterdir()} == {umask}
    card = (folder / "my-adapter" / "README.md").read_text()
    assert card.count("\n- lora\n") == 1 and "adapad predict my-adapter rows.csv" in card
    return folder / "my-adapter", results["lora"]


def run_card(adapter):
    """Runs the program on the card, and returns its names."""
    program = re.search(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(program.replace(f'"{adapter.name}"', f'"{adapter}"').replace("…", "a fine film"), names)
    return names


def check(adapter):
    """The card's model gives the outputs of the one that `adapad predict` uses."""
    names = run_card(adapter)
    texts = ["a fine great film", "a dull film"]
    ours, inputs = load_exported(adapter), names["tokenizer"](texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected, found = ours.model(**inputs).logits, names["model"](**inputs).logits
    assert found.shape[1] == 3
    assert names["model"].config.id2label == names["names"] == {0: "bad", 1: "good", 2: "odd"}
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    return names


@pytest.mark.parametrize("name", ["roberta", "gpt2", "two_classes"])
def test_local_folders(folders, reviews, tmp_path, name):
    adapter, _ = exported(reviews, folders[name], tmp_path)
    check(adapter)
    assert json.loads((adapter / ADAPTER_CONFIG).read_text())["task_type"] == "SEQ_CLS"
    assert transformers.AutoConfig.from_pretrained(adapter).id2label == {0: "bad", 1: "good", 2: "odd"}
    assert transformers.AutoConfig.from_pretrained(adapter).label2id == {"bad": 0, "good": 1, "odd": 2}


def test_a_packaged_model_with_mean_pooling(reviews, tmp_path):
    """Real weights; transformers has no class for this pooling, so that the package's own is loaded by PEFT."""
    adapter, cell = exported(reviews, "minilm-l6", tmp_path, budgets=["72 ranks"])
    names = check(adapter)
    assert type(names["model"].get_base_model()).__name__ == "MeanPooledClassifier"
    assert json.loads((adapter / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "minilm-l6"
    from peft import AutoPeftModelForSequenceClassification as Auto

    loaded = Auto.from_pretrained(str(adapter), num_labels=3, import_allowlist=["adapad_ray"]).eval()
    by_hand = load_backbone("minilm-l6", num_labels=3)
    from peft import PeftModel

    by_hand = PeftModel.from_pretrained(by_hand.model, tmp_path / "cells" / cell.id / "adapter").eval()
    inputs = names["tokenizer"](["a fine film"], return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(loaded(**inputs).logits, by_hand(**inputs).logits, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="allowlist"):
        Auto.from_pretrained(str(adapter))


def test_a_packaged_model_with_its_own_pooling_goes_by_its_folder(reviews, tmp_path):
    adapter, _ = exported(reviews, "minilm-l6", tmp_path, budgets=["72 ranks"], pooling="own")
    check(adapter)
    card = (adapter / "README.md").read_text()
    assert 'resolve_model("minilm-l6")' in card and ".cache" not in card


def test_predict_and_evaluate_from_the_command_line(folders, reviews, tmp_path):
    adapter, _ = exported(reviews, folders["roberta"], tmp_path)

    def adapad(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout

    texts = tmp_path / "texts.csv"
    texts.write_text("review,other\na fine film,1\na dull film,2\n")
    code, output = adapad("predict", adapter, texts)
    assert code == 0 and output.splitlines()[0] == "review,prediction,probability bad,probability good,probability odd"
    assert len(output.splitlines()) == 3
    for suffix in ("csv", "jsonl", "parquet"):
        code, _ = adapad("predict", adapter, texts, "--to", tmp_path / f"out.{suffix}")
        assert code == 0 and (tmp_path / f"out.{suffix}").stat().st_size > 0
    code, output = adapad("evaluate", adapter, reviews)
    assert code == 0 and re.fullmatch(r"accuracy 0\.\d{3,4}  \(120 rows\)\n", output), output
    code, output = adapad("evaluate", adapter, reviews, "--json")
    assert json.loads(output)["rows"] == 120


def test_a_compressed_export_still_predicts_and_is_as_complete(folders, reviews, tmp_path):
    adapter, _ = exported(reviews, folders["roberta"], tmp_path)
    ar.compress(adapter, tmp_path / "all", keep_energy=1.0)
    model, same = load_exported(adapter), load_exported(tmp_path / "all")
    names = [{path.name for path in folder.iterdir()} for folder in (adapter, tmp_path / "all")]
    assert names[1] == names[0] | {"compression.json"}
    card = (tmp_path / "all" / "README.md").read_text()
    assert "all, compressed" not in card and "# my-adapter, compressed to" in card
    check(tmp_path / "all")
    rows = model.read(str(reviews), answers=False)
    shares = [loaded.predict(rows)["probability good"] for loaded in (model, same)]
    np.testing.assert_allclose(*shares, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", ".", "rows.csv"), "holds no adapter"),
        (("evaluate", ".", "rows.csv"), "holds no adapter"),
        (("predict", ".", "rows.csv", "--to", "x.docx"), "use one of .csv"),
        (("predict", ".", "rows.csv", "--to", "no/such/x.csv"), "folder 'no/such' does not exist: create it"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text\n")
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1


def test_the_class_names_of_labels_that_training_lacks_are_named(folders, reviews, tmp_path):
    adapter, _ = exported(reviews, folders["roberta"], tmp_path)
    file = tmp_path / "more.csv"
    file.write_text("review,stars\na fine film,superb\n")
    result = CliRunner().invoke(app, ["evaluate", str(adapter), str(file)])
    assert result.exit_code == 2 and "labels that training lacks (superb)" in result.output


def test_the_card_says_over_which_quantisation_an_adapter_was_trained():
    record = {"model": "acme/decoder", "labels": [], "auto_class": CAUSAL}
    texts = [loading(record | {"quantization": kind}, LoadingCode(CAUSAL, 0), "out") for kind in ("nf4", None)]
    assert "trained over the base in `nf4`" in texts[0] and "rounding" not in texts[1]
