"""A small model object with its tokenizer, and reviews in a table."""

from __future__ import annotations

import pandas as pd
import pytest
from api_models import bert

from adapad_ray.testing import word_tokenizer
from tests.conftest import WORDS


@pytest.fixture
def tokenizer():
    return word_tokenizer(WORDS)


@pytest.fixture
def model():
    """For the three classes of `frame`; one component on each of its 12 linear layers costs 896 parameters."""
    return bert(3)


@pytest.fixture
def frame(reviews) -> pd.DataFrame:
    """120 reviews with the columns `review` and `stars`: 84 are left for training."""
    return pd.read_csv(reviews)[:120]
