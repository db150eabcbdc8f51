"""Loading: three checked splits out of whatever files there are."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import ClassificationSource, list_tasks, load_task, resolve_task


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, request, monkeypatch):
    if "rotten_tomatoes" not in request.fixturenames:
        monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def rotten_tomatoes():
    return load_task("rotten-tomatoes")


@pytest.fixture
def write(tmp_path):
    def write_file(name, rows):
        path, frame = tmp_path / name, pd.DataFrame(rows)
        match path.suffix:
            case ".csv":
                frame.to_csv(path, index=False)
            case ".tsv":
                frame.to_csv(path, index=False, sep="\t")
            case ".parquet":
                frame.to_parquet(path)
            case ".jsonl":
                frame.to_json(path, orient="records", lines=True)
            case ".json":
                frame.to_json(path, orient="records")
        return str(path)

    return write_file


def reviews(count=300, offset=0, labels=("bad", "good", "so-so")):
    return [
        {"review": f"review number {i}", "stars": labels[i % len(labels)], "author": f"author {i // 5}"}
        for i in range(offset, offset + count)
    ]


def ask(train, **fields):
    return {"train": train, "text": "review", "label": "stars"} | fields


def texts(task):
    return {split: set(frame["text"]) for split, frame in task.splits.items()}


def test_rotten_tomatoes_is_split_by_film(rotten_tomatoes):
    assert rotten_tomatoes.class_names == ("fresh", "rotten")
    assert rotten_tomatoes.metric == "accuracy"
    splits = rotten_tomatoes.splits
    # 12,808 reviews, of which 56 repeat another one word for word.
    assert sum(len(frame) for frame in splits.values()) == 12_808 - 56
    assert {split: len(frame) for split, frame in splits.items()} == {"train": 8878, "validation": 1323, "test": 2551}
    groups = [set(frame["group"]) for frame in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)), "no film stands in two splits"
    assert sum(map(len, texts(rotten_tomatoes).values())) == 12_752


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_every_format_gives_the_same_three_class_task(write, suffix):
    task = load_task(ask(write(f"stars.{suffix}", reviews())))
    assert task.name == "stars"
    assert task.class_names == ("bad", "good", "so-so")
    assert list(task.splits) == ["train", "validation", "test"]
    assert sum(len(frame) for frame in task.splits.values()) == 300
    for frame in task.splits.values():
        numbers = frame["text"].str.split().str[-1].astype(int)
        np.testing.assert_array_equal(frame["label"], numbers % 3)


def test_given_splits_are_taken_as_they_are(write):
    files = {name: write(f"{name}.csv", reviews(30, offset=i * 30)) for i, name in enumerate(["validation", "test"])}
    task = load_task(ask(write("train.csv", reviews(90, offset=60)), **files))
    assert {split: len(frame) for split, frame in task.splits.items()} == {"train": 90, "validation": 30, "test": 30}
    only_test = load_task(ask(write("train.csv", reviews(90, offset=60)), test=files["test"]))
    assert texts(only_test)["test"] == texts(task)["test"]


def test_a_file_called_train_is_named_after_its_folder(write, tmp_path):
    assert load_task(ask(write("train.csv", reviews()))).name == tmp_path.name


def test_integer_labels_sort_as_integers(write):
    task = load_task(ask(write("a.csv", reviews(labels=(10, 9, -1)))))
    assert task.class_names == ("-1", "9", "10")


def test_words_that_look_missing_are_words(write):
    task = load_task(ask(write("a.csv", reviews(labels=("NA", "None")))))
    assert task.class_names == ("NA", "None")


def test_the_source_digest_follows_the_files(write):
    digest = load_task(ask(write("a.csv", reviews()))).source_digest
    assert load_task(ask(write("b.csv", reviews()))).source_digest == digest
    assert load_task(ask(write("a.csv", reviews(301)))).source_digest != digest


def test_loading_is_silent(write, capfd):
    load_task(ask(write("a.csv", reviews())))
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def without(column):
    return [row | {column: None} if i % 100 == 0 else row for i, row in enumerate(reviews())]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (reviews(), {"text": "body"}, "no column 'body' for 'text': available are review, stars, author"),
        (reviews(), {"text_pair": "body"}, "no column 'body' for 'text_pair'"),
        (without("review"), {}, "column 'review' of the train data is empty in 3 of 300 rows"),
        (without("stars"), {}, "column 'stars' of the train data is empty in 3 of 300 rows"),
        (without("author"), {"group": "author"}, "column 'author' of the train data is empty in 3 of 300 rows"),
        (reviews(labels=("good",)), {}, "has one label in training, 'good'"),
        (reviews(labels=[i + 0.5 for i in range(30)]), {}, "holds 0.5 and 29 other numbers: labels are classes"),
        (reviews(), {"metric": "f1"}, "metric f1 is for two classes and task 'a' has 3: use f1_macro"),
        (
            reviews(),
            {"group": "stars"},
            "the training data of task 'a' are too few to carve splits from .300 rows in 3 groups",
        ),
    ],
)
def test_bad_columns(write, rows, fields, message):
    with pytest.raises(BadRequestError, match=message):
        load_task(ask(write("a.csv", rows), **fields))


def test_labels_that_training_lacks_are_named(write):
    test = write("test.csv", reviews(30, offset=5000, labels=("good", "superb")))
    with pytest.raises(
        BadRequestError, match=r"the test split holds labels that training lacks \(superb\): known are bad"
    ):
        load_task(ask(write("train.csv", reviews()), test=test))


def test_bad_files(write, tmp_path):
    with pytest.raises(BadRequestError, match=r"the train file 'gone\.csv' does not exist"):
        load_task(ask("gone.csv"))
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(BadRequestError, match=r"ends in '\.xlsx': use one of \.jsonl"):
        load_task(ask(str(tmp_path / "a.xlsx")))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("rotten-tomatos", "task 'rotten-tomatos' is unknown: did you mean 'rotten-tomatoes'"),
        ("./a.csv", "a mapping such as"),
        ({"train": "a.csv", "lable": "stars"}, "task.lable is unknown: did you mean label"),
        ({"text": "review"}, "needs `train`"),
        ({"train": "a.csv", "subset": "b"}, "subset 'b' belongs to a `dataset`"),
        ({"train": "a.csv", "metric": "bleu"}, "task.metric is 'bleu': use one of accuracy"),
        ({"train": 3.5}, "task.train is 3.5"),
    ],
)
def test_bad_sources(task, message):
    with pytest.raises(BadRequestError, match=message):
        resolve_task(task)


def test_names_of_glue_and_the_hub():
    assert {"rotten-tomatoes", "cola", "rte"} <= set(list_tasks())
    assert resolve_task("cola").metric == "matthews_corrcoef"
    assert resolve_task("owner/data") == ClassificationSource(dataset="owner/data")


def test_an_unreachable_hub_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BadRequestError, match="data set 'nyu-mll/glue' would come from the Hub, which cannot be reached"
    ):
        load_task("cola")


def glue_like(monkeypatch, **splits):
    found = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    monkeypatch.setattr("adapad_ray.tasks.data.hub.require_hub", lambda what: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: found)


def sentences(count, offset=0, withheld=False):
    return [{"sentence": f"sentence {i}", "label": -1 if withheld else i % 2} for i in range(offset, offset + count)]


def test_glue_s_labelled_validation_is_our_test(monkeypatch):
    glue_like(
        monkeypatch, train=sentences(300), validation=sentences(40, 1000), test=sentences(40, 2000, withheld=True)
    )
    task = load_task("cola")
    assert (task.name, task.class_names) == ("nyu-mll/glue/cola", ("0", "1"))
    assert texts(task)["test"] == {row["sentence"] for row in sentences(40, 1000)}
    assert not texts(task)["train"] & texts(task)["validation"]


def test_a_missing_hub_split_is_named(monkeypatch):
    glue_like(monkeypatch, train=sentences(300))
    with pytest.raises(BadRequestError, match="has no split 'dev': available are train"):
        load_task({"dataset": "owner/data", "validation": "dev", "text": "sentence"})


def test_text_pairs_are_kept_apart_by_their_first_text(write):
    rows = [{"premise": f"premise {i % 60}", "claim": f"claim {i}", "label": i % 2} for i in range(300)]
    task = load_task({"train": write("pairs.jsonl", rows), "text": "premise", "text_pair": "claim"})
    for frame in task.splits.values():
        assert list(frame) == ["text", "text_pair", "label"]
        assert (frame["text"].value_counts() == 5).all()
    assert json.dumps(task.class_names) == '["0", "1"]'


def test_a_cache_that_cannot_be_written_is_called_so(monkeypatch):
    def load_dataset(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    glue_like(monkeypatch)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BadRequestError, match=r"the cache folder .* cannot be written \(Permission denied\)"):
        load_task("cola")


def test_files_need_no_cache(write, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADAPAD_CACHE", str(tmp_path / "file" / "cache"))
    assert load_task(ask(write("a.csv", reviews()))).class_names == ("bad", "good", "so-so")
