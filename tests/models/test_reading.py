"""Reading a model leaves no trace outside it."""

import torch
import transformers

from adapad_ray.models import load_backbone


def test_loading_is_silent_and_leaves_the_users_settings(capfd):
    transformers.logging.set_verbosity_info()
    state = torch.random.get_rng_state()
    try:
        load_backbone("minilm-l6", 2, pooling="own")
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state)
