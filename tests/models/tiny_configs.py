"""Configurations and tokenizers of small models."""

from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors


def tiny_config(config_class: Any, **changes: Any) -> Any:
    """A configuration that goes with MiniLM's tokenizer."""
    sizes = {"vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return config_class(**(sizes | {"intermediate_size": 32, "pad_token_id": 0} | changes))


def words(**settings: Any) -> Any:
    """A tokenizer of the words `w4` to `w99`, tokens 4 to 99, between [CLS] 2 and [SEP] 3; it names no length.

    Its padding side is the wrong one for most models.
    """
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {f"w{i}": i for i in range(4, 100)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **(roles | {"eos_token": "[SEP]", "padding_side": "left"} | settings)
    )
