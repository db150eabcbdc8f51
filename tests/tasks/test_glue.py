"""GLUE by name from a folder: its columns, its metrics, its splits."""

import json

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import load_task, resolve_task

COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}
"""As the Hub's `nyu-mll/glue` has them."""
METRICS = {
    "cola": "matthews_corrcoef",
    "mrpc": "accuracy_f1",
    "qqp": "accuracy_f1",
    "stsb": "pearson_spearman",
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder, split, task, count, label=None):
    folder.mkdir(parents=True, exist_ok=True)
    classes = 3 if task == "mnli" else 2
    rows = []
    for i in range(count):
        own = i % 50 / 10 if task == "stsb" else i % classes
        texts = {column: f"{split} {column} {i}" for column in COLUMNS[task]}
        rows.append(texts | {"label": own if label is None else label, "idx": i})
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("task", COLUMNS)
def test_every_task_is_read_by_name_from_a_folder(task, tmp_path):
    write(tmp_path / task, "train", task, 200)
    write(tmp_path / task, "validation", task, 20)
    raw = load_task(task, data_dir=str(tmp_path))
    assert raw.metric == METRICS.get(task, "accuracy")
    assert raw.type == ("regression" if task == "stsb" else "classification")
    assert len(raw.class_names) == {"stsb": 0, "mnli": 3}.get(task, 2)
    # The labelled validation set is the test; validation is carved out of train.
    assert all(text.startswith("validation") for text in raw.splits["test"]["text"])
    assert len(raw.splits["train"]) + len(raw.splits["validation"]) == 200
    assert ("text_pair" in raw.splits["train"]) == (len(COLUMNS[task]) == 2)
    assert load_task(task, data_dir=str(tmp_path / task)).source_digest == raw.source_digest, "or from its own folder"


def test_a_labelled_test_set_is_used_and_a_withheld_one_is_not(tmp_path):
    for split, count in (("train", 60), ("validation", 20), ("test", 30)):
        write(tmp_path, split, "mrpc", count)
    given = load_task("mrpc", data_dir=str(tmp_path))
    assert {name: len(frame) for name, frame in given.splits.items()} == {"train": 60, "validation": 20, "test": 30}
    write(tmp_path, "test", "mrpc", 30, label=-1)
    withheld = load_task("mrpc", data_dir=str(tmp_path))
    assert len(withheld.splits["test"]) == 20


def test_mnli_brings_the_mismatched_set_along(tmp_path):
    write(tmp_path, "train", "mnli", 200)
    write(tmp_path, "validation_matched", "mnli", 20)
    write(tmp_path, "validation_mismatched", "mnli", 25)
    raw = load_task("mnli", data_dir=str(tmp_path))
    assert list(raw.splits) == ["train", "validation", "test", "test_mismatched"]
    assert len(raw.splits["test"]) == 20 and len(raw.splits["test_mismatched"]) == 25


def test_labels_of_a_regression_are_numbers(tmp_path):
    write(tmp_path, "train", "stsb", 100)
    write(tmp_path, "validation", "stsb", 20)
    labels = load_task("stsb", data_dir=str(tmp_path)).splits["test"]["label"]
    assert labels.tolist() == [i / 10 for i in range(20)]
    write(tmp_path, "validation", "stsb", 20, label="much")
    with pytest.raises(BadRequestError, match="holds 'much': labels of a regression are finite numbers"):
        load_task("stsb", data_dir=str(tmp_path))


def test_a_folder_without_the_task_is_refused(tmp_path):
    with pytest.raises(BadRequestError, match=r"has no train.jsonl of task cola: put it there or into cola/"):
        resolve_task("cola", str(tmp_path))
    with pytest.raises(BadRequestError, match="task 'rotten-tomatoes' reads no local files"):
        resolve_task("rotten-tomatoes", str(tmp_path))


def test_relative_files_of_a_mapping_start_from_data_dir(tmp_path):
    found = resolve_task({"train": "a.csv", "test": "/b.csv"}, str(tmp_path))
    assert (found.train, found.test) == (str(tmp_path / "a.csv"), "/b.csv")
