"""The Python lines that load an exported adapter, for its model card."""

from __future__ import annotations

import json
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
    named: bool = False
    """Whether `config.json` in the adapter's folder names the classes."""

    @property
    def peft_class(self) -> str:
        """The class of PEFT."""
        if self.own_class or self.auto_class == IMAGES:
            return "AutoPeftModel"
        return self.auto_class.replace("AutoModel", "AutoPeftModel")

    def call(self, adapter: str) -> str:
        """The expression that makes the model; `names` are those of the classes, where there are any."""
        arguments = {name: _literal(value) for name, value in self.arguments.items()}
        if self.named:
            arguments = {"id2label": "names", **arguments}
        elif self.outputs and self.auto_class != "AutoModelForQuestionAnswering":
            arguments = {"num_labels": str(self.outputs), **arguments}
        listed = "".join(f", {name}={value}" for name, value in arguments.items())
        return f"{self.peft_class}.from_pretrained({_literal(adapter)}{listed}).eval()"

    def lines(self, adapter: str) -> str:
        """A program that loads the adapter and runs it on a text or an image."""
        reader = "AutoImageProcessor" if self.auto_class == IMAGES else "AutoTokenizer"
        classes = f"AutoConfig, {reader}" if self.named else reader
        imports = [f"from peft import {self.peft_class}", f"from transformers import {classes}", ""]
        if self.auto_class == IMAGES:
            imports.insert(1, "from PIL import Image")
        names = [f"names = AutoConfig.from_pretrained({_literal(adapter)}).id2label"] if self.named else []
        model = [f"model = {self.call(adapter)}", f"{_READER[reader]} = {reader}.from_pretrained({_literal(adapter)})"]
        return "\n".join([*imports, *names, *model, *self._use()])

    def _use(self) -> list[str]:
        if self.chats:
            return [
                'messages = [{"role": "user", "content": "…"}]',
                'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")',
                'answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]',
                "print(tokenizer.decode(answer, skip_special_tokens=True))",
            ]
        if self.auto_class == CAUSAL:
            return [
                'inputs = tokenizer("…", return_tensors="pt")',
                "print(tokenizer.decode(model.generate(**inputs)[0]))",
            ]
        if self.auto_class == "AutoModelForQuestionAnswering":
            return ['output = model(**tokenizer("question", "context", return_tensors="pt"))']
        inputs = 'processor(Image.open("…"), ' if self.auto_class == IMAGES else 'tokenizer("…", '
        use = [f'logits = model(**{inputs}return_tensors="pt")).logits']
        return [*use, "print(names[int(logits.argmax())])"] if self.named else use


_READER = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "processor"}


def _literal(value: Any) -> str:
    """As Python writes it, with double quotes."""
    return repr(value) if isinstance(value, bool | int | None) else json.dumps(value, ensure_ascii=False)
