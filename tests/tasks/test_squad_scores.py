"""SQuAD's scores on cases built by hand, as the official script counts them."""

import numpy as np
import pytest

from adapad_ray.tasks.squad_scores import best_threshold, exact_match, normalise_answer, token_f1
from adapad_ray.tasks.types.answer_scores import last_number


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1"),
    [
        ("Paris", ["Paris"], 1, 1),
        ("the  Eiffel Tower.", ["Eiffel tower"], 1, 1),  # article, case, full stop, white space
        ("An apple, a pear", ["apple pear"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word, not the beginning of one
        ("U.S.", ["US"], 1, 1),  # punctuation vanishes; it does not part words
        ("well-known", ["well known"], 0, 0),
        ("Barack Obama", ["Obama"], 0, 2 / 3),  # precision 1/2, recall 1
        ("new new york", ["new york"], 0, 4 / 5),  # a repeated word counts as often as gold has it
        ("10 October 1973", ["1973", "October 1973"], 0, 4 / 5),  # the best of several gold answers
        ("October", ["1973", "October"], 1, 1),
        ("", [], 1, 1),  # no answer, rightly
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", [], 1, 1),  # nothing is left of it
        ("", ["the", "Paris"], 0, 0),  # a gold answer of which nothing is left is none
        ("a", ["the"], 1, 1),  # unless there is no other
    ],
)
def test_scores_by_hand(answer, gold, exact, f1):
    assert exact_match(answer, gold) == exact
    assert token_f1(answer, gold) == pytest.approx(f1)


def test_articles_go_after_punctuation():
    """The official order: 'a.' is an article only once its full stop is gone."""
    assert normalise_answer("A. Lincoln") == "lincoln"
    assert normalise_answer("  The\tAnswer ") == "answer"


def test_the_threshold_is_the_best_of_all_there_are():
    draw = np.random.default_rng(0)
    for _ in range(50):
        scores = draw.integers(-3, 4, 12).astype(float)  # with ties
        answered, silent = draw.random(12), draw.integers(0, 2, 12).astype(float)
        sums = {t: np.where(scores <= t, answered, silent).sum() for t in [-np.inf, *scores]}
        found = best_threshold(scores, answered, silent)
        assert sums[found] == pytest.approx(max(sums.values()))


def test_the_threshold_never_answers_where_that_never_pays():
    assert best_threshold(np.array([0.0, 1.0]), np.zeros(2), np.ones(2)) == -np.inf


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So she pays 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("the answer is $18.00.", "18"),
        ("it falls to -2.50", "-2.5"),
        ("none", ""),
    ],
)
def test_the_last_number_decides(text, number):
    assert last_number(text) == number
