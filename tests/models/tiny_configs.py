"""Configurations of small models that go with MiniLM's tokenizer."""

from typing import Any


def tiny_config(config_class: Any, **changes: Any) -> Any:
    sizes = {"vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return config_class(**(sizes | {"intermediate_size": 32, "pad_token_id": 0} | changes))
