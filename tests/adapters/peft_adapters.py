"""LoRA adapters that PEFT itself wrote, on tiny models, for tests of compression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers

IDS = torch.arange(24).view(3, 8) % 17


def bert():
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).eval()


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter that PEFT saved, and the model it belongs to."""

    base: object
    folder: Path

    def model(self, folder=None):
        return peft.PeftModel.from_pretrained(self.base(), folder or self.folder).eval()

    def logits(self, folder=None, dtype=torch.float32):
        with torch.no_grad():
            return self.model(folder).to(dtype)(input_ids=IDS).logits.double().numpy()

    def updates(self, folder=None):
        """Module → dense ΔW, as PEFT computes it."""
        layers = {n: m for n, m in self.model(folder).named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
        return {n: layer.get_delta_weight("default").detach().double() for n, layer in layers.items()}


CASES = {
    "plain": (bert, {"target_modules": ["query", "value"]}),
    "every linear layer": (bert, {"target_modules": ["query", "key", "value", "dense"], "task_type": "SEQ_CLS"}),
    "rslora": (bert, {"target_modules": ["query", "dense"], "use_rslora": True, "lora_alpha": 3}),
    "patterns": (
        bert,
        {
            "target_modules": ["query", "output.dense"],
            "rank_pattern": {"0.attention.self.query": 2, r"1\..*\.dense": 7},
            "alpha_pattern": {"query": 0.5, "0.output.dense": 20},
            "use_rslora": True,
        },
    ),
    "negative scale": (bert, {"target_modules": ["query"], "alpha_pattern": {"0.attention.self.query": -4}}),
    "head": (bert, {"target_modules": ["value"], "modules_to_save": ["pooler", "classifier"]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}),
    "regex": (bert, {"target_modules": r".*layer\.1.*(query|value)"}),
}
"""Forms of B A, scales and heads."""

CONFIGURATIONS = CASES | {
    "all-linear": (bert, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "one layer": (bert, {"target_modules": ["query", "dense"], "layers_to_transform": [1], "layers_pattern": "layer"}),
    "excluded modules": (bert, {"target_modules": ["query", "key"], "exclude_modules": ["layer.0.attention.self.key"]}),
    "excluded pattern": (bert, {"target_modules": "all-linear", "exclude_modules": r".*(pooler|attention).*"}),
    "targets that the model lacks": (bert, {"target_modules": ["query", "c_attn", "gate_up_proj"]}),
    "patterns without modules": (
        bert,
        {"target_modules": ["query"], "rank_pattern": {"key": 9}, "alpha_pattern": {"q_proj": 3, "query": 6}},
    ),
    "overlapping patterns": (
        bert,
        {"target_modules": ["query"], "alpha_pattern": {"0.attention.self.query": 3, "query": 6, ".*": 1}},
    ),
    "head and dense": (bert, {"target_modules": ["dense"], "modules_to_save": ["pooler"], "task_type": "SEQ_CLS"}),
    "output layer": (gpt2, {"target_modules": ["c_proj", "lm_head"], "fan_in_fan_out": True}),
    "embedding saved whole": (
        gpt2,
        {"target_modules": ["c_attn"], "modules_to_save": ["wpe"], "fan_in_fan_out": True, "use_rslora": True},
    ),
}
"""Ways to choose modules, layers, ranks and scales."""


def save_adapter(name, folder, dtype=torch.float32):
    """Saves an adapter of this case with random factors and a random head."""
    base, settings = CONFIGURATIONS[name]
    model = peft.get_peft_model(base(), peft.LoraConfig(**{"r": 5, "lora_alpha": 8, **settings}))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
                parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder)
    return PeftAdapter(base, folder)
