"""MiniLM, and small random models that are saved as a user would."""

import pytest

from adapad_ray.models import load_backbone

TEXTS = ["a short text", "a rather longer text about a film that nobody will ever see again"]


@pytest.fixture(scope="session")
def minilm():
    """Shared by all modules, so no test may change it."""
    return load_backbone("minilm-l6", 2)


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture(scope="session")
def inputs(minilm):
    return minilm.tokenizer(TEXTS, padding=True, return_tensors="pt")


@pytest.fixture
def save(tmp_path, minilm):
    """Writes a small random model with MiniLM's tokenizer and returns its folder."""

    def write(model):
        model.save_pretrained(tmp_path / "model")
        minilm.tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return write
