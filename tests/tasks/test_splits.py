"""Carving: which rows go where, what is kept together, and what is said about rare classes."""

import random

import pandas as pd
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.splits import Shares, carve, fraction
from adapad_ray.tasks.registry import parse_source
from adapad_ray.validation import validated


def frame(sizes, group=None):
    """Rows of each class; `group` makes a row's group of its number."""
    rows = [
        {"text": f"{name} text {i}", "label": name} | ({"group": group(i)} if group else {})
        for name, size in sizes.items()
        for i in range(size)
    ]
    return pd.DataFrame(rows)


def counts(carved):
    return {name: split["label"].value_counts().to_dict() for name, split in carved.splits.items()}


def texts(carved):
    return {name: set(split["text"]) for name, split in carved.splits.items()}


def test_every_class_gives_its_share_to_each_split():
    carved = carve({"train": frame({"a": 100, "b": 40, "c": 7, "d": 3})})
    assert counts(carved) == {
        "train": {"a": 70, "b": 28, "c": 5, "d": 1},
        "validation": {"a": 10, "b": 4, "c": 1, "d": 1},
        "test": {"a": 20, "b": 8, "c": 1, "d": 1},
    }
    assert carved.carved == ("validation", "test") and not carved.warnings and not carved.dropped


def test_shares_are_settings():
    carved = carve({"train": frame({"a": 100, "b": 40})}, Shares(validation=0.25, test=0.5))
    assert counts(carved)["validation"] == {"a": 25, "b": 10} and counts(carved)["test"] == {"a": 50, "b": 20}
    for shares in ({"test": 0}, {"test": 0.95}, {"tset": 0.1}):
        with pytest.raises(BadRequestError, match=r"task\.shares"):
            parse_source({"train": "a.csv", "shares": shares})
    assert validated(Shares, {"test": 0.3}, "shares") == Shares(test=0.3)


def test_the_order_of_rows_and_rows_of_other_classes_move_no_text():
    rows = frame({"a": 90, "b": 90})
    one = texts(carve({"train": rows}))
    shuffled = rows.sample(frac=1, random_state=1).reset_index(drop=True)
    assert texts(carve({"train": shuffled})) == one
    more = texts(carve({"train": pd.concat([frame({"c": 50}), shuffled], ignore_index=True)}))
    assert all(one[name] <= more[name] for name in one)


def test_the_test_has_the_lowest_hashes_of_each_class():
    found = texts(carve({"train": frame({"a": 50, "b": 50})}))
    for name in "ab":
        of_class = {split: [fraction(text) for text in rows if text[0] == name] for split, rows in found.items()}
        assert (
            max(of_class["test"]) < min(of_class["validation"]) < max(of_class["validation"]) < min(of_class["train"])
        )


def test_a_class_of_too_few_texts_stays_in_training_and_is_named():
    carved = carve({"train": frame({"a": 60, "b": 60, "odd": 1, "rare": 2})})
    assert counts(carved)["train"].items() >= {"odd": 1, "rare": 2}.items()
    assert {"odd", "rare"}.isdisjoint(counts(carved)["validation"] | counts(carved)["test"])
    (warning,) = carved.warnings
    assert "classes odd (1 row), rare (2 rows): their rows stay in the training split" in warning
    assert "the carved validation and test data have none of them" in warning


def test_a_test_file_leaves_only_validation_to_carve():
    carved = carve({"train": frame({"a": 50, "b": 50, "rare": 2}), "test": frame({"a": 5, "rare": 1})})
    assert carved.carved == ("validation",)
    assert counts(carved)["validation"] == {"a": 5, "b": 5, "rare": 1}
    assert counts(carved)["test"] == {"a": 5, "rare": 1}


def test_a_validation_file_without_a_test_file_becomes_the_test():
    held_out = frame({"a": 5, "b": 5}).assign(text=lambda rows: "held out " + rows["text"])
    carved = carve({"train": frame({"a": 50, "b": 50}), "validation": held_out})
    assert texts(carved)["test"] == set(held_out["text"]) and carved.carved == ("validation",)
    assert counts(carved)["validation"] == {"a": 5, "b": 5}


def test_trivial_variants_of_a_text_stay_together_whatever_their_class():
    rows = [
        {"text": text, "label": "abc"[(i + j) % 3]}
        for i in range(200)
        for j, text in enumerate((f"Text {i}", f"text  {i}", f"TEXT {i} "))
    ]
    carved = carve({"train": pd.DataFrame(rows)})
    for split in carved.splits.values():
        assert (split["text"].str.lower().str.split().str.join(" ").value_counts() == 3).all()
    assert 35 <= len(carved.splits["test"]) // 3 <= 45


def test_groups_and_texts_stand_in_one_split():
    rows = frame({"a": 300, "b": 300}, group=lambda i: f"author {i // 5}")
    rows.loc[::7, "text"] = "The SAME  words"
    carved = carve({"train": rows})
    for of in ("group", "text"):
        found = [set(split[of]) for split in carved.splits.values()]
        assert sum(map(len, found)) == len(set.union(*found))
    assert "The SAME  words" in texts(carved)["test"]
    assert carved.dropped == 600 - sum(map(len, carved.splits.values())) > 0


def test_groups_go_by_their_hash_and_a_class_is_never_missing_in_training():
    names = [f"group {i}" for i in range(400)]
    in_test = next(name for name in names if fraction(name) < 0.2)
    rows = frame({"a": 400, "b": 400}, group=lambda i: names[i])
    rows.loc[rows["group"] == in_test, "label"] = "rare"
    carved = carve({"train": rows})
    assert in_test in set(carved.splits["train"]["group"])
    assert all(fraction(name) < 0.2 for name in carved.splits["test"]["group"])
    assert "too few groups to carve from class rare (2 rows)" in carved.warnings[0]


def test_labels_that_are_no_classes_go_by_the_hash_of_the_text_alone():
    rows = frame({"a": 300}).assign(label=range(300))
    one = texts(carve({"train": rows}))
    other = texts(carve({"train": pd.concat([rows, rows.assign(text="more " + rows["text"])], ignore_index=True)}))
    assert all(one[name] <= other[name] for name in one)
    assert all(fraction(text) < 0.2 for text in one["test"])
    assert all(0.2 <= fraction(text) < 0.3 for text in one["validation"])


def test_every_training_class_occurs_in_training_for_random_data():
    draw = random.Random(0)
    for _ in range(100):
        rows = [
            {"text": f"text {draw.randrange(12)}", "label": draw.choice("abcdef"), "group": f"g{draw.randrange(6)}"}
            for _ in range(draw.randrange(4, 40))
        ]
        table = pd.DataFrame(rows)
        for given in (table, table.drop(columns="group")):
            carved = carve({"train": given})
            assert set(carved.splits["train"]["label"]) == set(table["label"])
            assert sum(map(len, carved.splits.values())) + carved.dropped == len(table)
            seen = [set(split["text"]) for split in carved.splits.values()]
            assert sum(map(len, seen)) == len(set.union(*seen))
