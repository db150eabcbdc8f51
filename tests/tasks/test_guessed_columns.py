"""The columns of texts and labels are guessed from names and values."""

import pandas as pd
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.guessed_columns import GuessedColumns, guess_columns


def table(**columns):
    return pd.DataFrame({name: list(map(str, values)) for name, values in columns.items()})


ROWS = range(60)
FILMS = [f"a film about {'nothing' * (n % 3)} number {n}" for n in ROWS]
MANY = [f"a film number {n}" for n in range(600)]
STARS = ["up" if n % 3 else "down" for n in ROWS]


@pytest.mark.parametrize(
    ("columns", "text", "label", "kind"),
    [
        ({"id": ROWS, "review": FILMS, "stars": STARS}, "review", "stars", "classification"),
        ({"a": STARS, "b": FILMS}, "b", "a", "classification"),
        ({"text": STARS, "body": FILMS, "label": STARS}, "body", "label", "classification"),
        ({"title": [f"film {n}" for n in ROWS], "review": FILMS, "y": STARS}, "review", "y", "classification"),
        ({"n": [n % 3 for n in ROWS], "what": FILMS, "kind": STARS}, "what", "kind", "classification"),
        ({"what": FILMS, "grade": [n / 7 for n in ROWS]}, "what", "grade", "regression"),
        ({"what": FILMS, "Score": [n % 5 for n in ROWS]}, "what", "Score", "classification"),
        ({"what": MANY, "intent": [n % 77 for n in range(600)]}, "what", "intent", "classification"),
        ({"what": MANY, "age": [18 + n % 60 for n in range(600)]}, "what", "age", "regression"),
        ({"what": FILMS, "stars": [n % 5 / 2 for n in ROWS]}, "what", "stars", "regression"),
    ],
)
def test_usual_names_come_first_then_few_values_and_long_texts(columns, text, label, kind):
    found = guess_columns(table(**columns))
    assert (found.text, found.label, found.type) == (text, label, kind)


def test_what_is_known_is_not_guessed():
    found = guess_columns(table(id=ROWS, review=FILMS, stars=STARS, source=STARS), label="source", text="review")
    assert found == GuessedColumns("review", "source", "classification", ("id", "stars"))


@pytest.mark.parametrize(
    ("columns", "certain"),
    [
        ({"id": ROWS, "review": FILMS, "stars": STARS}, True),
        ({"a": STARS, "b": FILMS}, True),
        ({"id": ROWS, "a": STARS, "b": FILMS}, False),
        ({"id": ROWS, "review": FILMS, "b": STARS}, False),
    ],
)
def test_names_and_two_columns_are_certain_and_values_are_not(columns, certain):
    assert guess_columns(table(**columns)).certain == certain


def test_lists_and_objects_are_neither_texts_nor_labels():
    rows = table(review=FILMS, stars=STARS).assign(tokens=[["a", "b"]] * 60, label=[{"a": 1}] * 60)
    found = guess_columns(rows)
    assert (found.text, found.label) == ("review", "stars")


@pytest.mark.parametrize(
    ("columns", "known", "message"),
    [
        ({"id": ROWS, "review": FILMS}, {}, "none of the columns id, review looks like labels"),
        ({"id": ROWS, "stars": STARS}, {"label": "stars"}, "looks like texts"),
        ({"review": FILMS, "stars": STARS}, {"label": "star"}, "no column 'star' for 'label'.*did you mean 'stars'"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(columns, known, message):
    with pytest.raises(BadRequestError, match=message):
        guess_columns(table(**columns), **known)
