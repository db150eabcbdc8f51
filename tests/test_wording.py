"""One thing is not written like several."""

import re
from pathlib import Path

import pytest

import adapad_ray
from adapad_ray.wording import counted, rough_duration

NOUNS = "row|cell|field|module|seed|trial|parent|adapter|CPU|GPU|item|example"


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 cells"), (1, "1 cell"), (1.0, "1 cell"), (0.5, "0.5 cells"), (1600, "1,600 cells")]
)
def test_a_number_of_things(number, words):
    assert counted(number, "cell") == words


def test_a_noun_may_have_a_plural_of_its_own():
    assert counted(2, "class", "classes") == "2 classes" and counted(1, "class", "classes") == "1 class"


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((0.2,), "1 s"),
        ((40, 50), "45 s"),
        ((11 * 60, 12 * 60), "10 min"),
        ((18 * 60, 22 * 60), "20 min"),
        ((55 * 60, 65 * 60), "60 min"),
        ((2.8 * 3600, 3.3 * 3600), "3 h"),
        ((200 * 3600,), "200 h"),
    ],
)
def test_times_that_were_measured_twice_mostly_read_the_same(measured, words):
    assert {rough_duration(seconds) for seconds in measured} == {words}


def test_no_sentence_counts_things_without_looking_at_the_number():
    """As in `{len(cells)} cells`; where the number cannot be one, the words before it say so."""
    allowed = re.compile(r"(MOST_|these |all |limit|training examples of|test \{|of \{|:,\}\{of\})")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(adapad_ray.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(rf"\blen\([^)]*\)(:,)?\}} ({NOUNS})s\b", line) and not allowed.search(line)
    ]
    assert found == []
