"""Whether a model can read the texts of a task, before anything is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from adapad_ray.models import CAUSAL, Reading, check_texts
from adapad_ray.tasks import TYPES, RawTask, TaskData
from adapad_ray.training.batches import pad_to_multiple


def check_reading(
    source: str, model: nn.Module, tokenizer: Any, raw: RawTask, data: TaskData, multiple: int
) -> tuple[str, ...]:
    """Check that the model can read every text; return what is only suspicious. Other data need no check.

    Args:
        source: the model, as the user named it.
        multiple: training batches are padded to a multiple of so many tokens.

    Raises:
        BadRequestError: a token, a token type or a position is beyond the model, or the model rejects the texts.
    """
    splits: dict[str, Any] = {name: getattr(split, "windows", split) for name, split in data.splits.items()}
    if not all(hasattr(split, "tokens") for split in splits.values()):
        return ()
    prompts = TYPES[data.type].auto_class == CAUSAL
    pair = "text_pair" in raw.splits["train"]
    return check_texts(
        Reading(
            source,
            model,
            tokenizer,
            splits,
            added_tokens=None if prompts else tokenizer.num_special_tokens_to_add(pair=pair),
            pad=partial(
                pad_to_multiple,
                multiple=multiple,
                pad_token_id=tokenizer.pad_token_id,
                left=getattr(splits["train"], "pads_left", False),
            ),
            answer_tokens=_answer_tokens(data),
            plain=not TYPES[data.type].writes_special_tokens,
        )
    )


def _answer_tokens(data: TaskData) -> int:
    """Tokens that generation may add beyond the longest sequence of the splits."""
    most = data.settings.get("max_new_tokens")
    if most is None:
        return 0
    longest = max(int(split.lengths.max()) for split in data.splits.values())
    prompt = max(int(split.prompt_lengths.max(initial=0)) for split in data.splits.values())  # type: ignore[attr-defined]
    return max(0, prompt + int(most) - longest)
