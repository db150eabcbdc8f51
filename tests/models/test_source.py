"""What a model may be given as, and what is refused."""

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_backbone, resolve_model


def test_bad_sources(tmp_path, monkeypatch):
    with pytest.raises(BadRequestError, match="does not exist"):
        resolve_model("./nowhere")
    with pytest.raises(BadRequestError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BadRequestError, match="model 'nobody/nothing' would come from the Hub, which cannot be reached"
    ):
        load_backbone("nobody/nothing", 2)
