"""The Python lines that load an exported adapter, for its model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapad_ray.models import CAUSAL, IMAGES


@dataclass(frozen=True)
class LoadingCode:
    """How PEFT loads the adapter with its base model."""

    auto_class: str
    """The class of transformers that the base model is loaded with."""
    outputs: int
    """Of the task head; 0 without one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `from_pretrained`."""
    own_class: bool = False
    """Whether the base model is loaded with a class of this package."""
    chats: bool = False
    """Whether it reads conversations through the tokenizer's chat template."""

    @property
    def peft_class(self) -> str:
        """The class of PEFT."""
        if self.own_class or self.auto_class == IMAGES:
            return "AutoPeftModel"
        return self.auto_class.replace("AutoModel", "AutoPeftModel")

    def call(self, adapter: str) -> str:
        """The expression that makes the model."""
        arguments = dict(self.arguments)
        if self.outputs and self.auto_class != "AutoModelForQuestionAnswering":
            arguments = {"num_labels": self.outputs, **arguments}
        named = "".join(f", {name}={value!r}" for name, value in arguments.items())
        return f'{self.peft_class}.from_pretrained("{adapter}"{named}).eval()'.replace("'", '"')

    def lines(self, adapter: str) -> str:
        """A program that loads the adapter and runs it on a text."""
        if self.auto_class == IMAGES:
            return f"from peft import {self.peft_class}\n\nmodel = {self.call(adapter)}"
        run = f'tokenizer = AutoTokenizer.from_pretrained("{adapter}")\n'
        if self.chats:
            run += (
                'messages = [{"role": "user", "content": "…"}]\n'
                'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")\n'
                'answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]\n'
                "print(tokenizer.decode(answer, skip_special_tokens=True))"
            )
        elif self.auto_class == CAUSAL:
            run += 'inputs = tokenizer("…", return_tensors="pt")\nprint(tokenizer.decode(model.generate(**inputs)[0]))'
        elif self.auto_class == "AutoModelForQuestionAnswering":
            run += 'output = model(**tokenizer("question", "context", return_tensors="pt"))'
        else:
            run += 'logits = model(**tokenizer("…", return_tensors="pt")).logits'
        imports = f"from peft import {self.peft_class}\nfrom transformers import AutoTokenizer\n\n"
        return f"{imports}model = {self.call(adapter)}\n{run}"
