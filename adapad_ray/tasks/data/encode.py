"""From a task's rows to the splits that training reads, and the digest that identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import RawTask, Split, TaskData, digest_of
from adapad_ray.tasks.data.splits import TEST_SHARE, VALIDATION_SHARE
from adapad_ray.tasks.data.tables import name_of
from adapad_ray.tasks.encoding.texts import EncodedSplit
from adapad_ray.tasks.registry import TYPES
from adapad_ray.tasks.source import DataSource


def encode(
    raw: RawTask,
    reader: Any,
    *,
    max_length: int,
    max_train_examples: int | None = None,
    max_validation_examples: int | None = None,
    max_test_examples: int | None = None,
) -> TaskData:
    """Encode a task; `reader` is the model's tokenizer, or the format of its images.

    Every split stands in the order of a hash of its rows and a cap keeps its beginning, so neither depends on the
    order of rows, and a smaller cap is part of a larger one. Further tests have the cap of the test.

    Raises:
        BadRequestError: a cap is below 1, or `max_length` leaves no token or exceeds the model's limit.
    """
    kind = TYPES[raw.type]
    kind.check_reader(raw, reader, max_length)
    caps = {"train": max_train_examples, "validation": max_validation_examples, "test": max_test_examples}
    for split, cap in caps.items():
        if cap is not None and cap < 1:
            raise BadRequestError(f"max_{split}_examples is {cap}: use at least 1, or leave it out for all")
    splits = {}
    for split in (*caps, *(name for name in raw.splits if name not in caps)):
        frame = _in_hash_order(raw.splits[split])[: caps.get(split, max_test_examples)]
        splits[split] = kind.encode(raw, frame, split, reader, max_length)
    settings = kind.settings(raw)
    parts = {name: vars(split) for name, split in splits.items()}
    about = (raw.type, raw.metric, repr(sorted(settings.items())))
    return TaskData(
        name=raw.name,
        label_names=raw.label_names,
        metric=raw.metric,
        splits=splits,
        digest=_digest(splits) if raw.type == "classification" else digest_of(parts, *about),
        loss=kind.loss,
        type=raw.type,
        settings=settings,
    )


def assume(source: DataSource, reader: Any, *, max_length: int, caps: Mapping[str, int | None]) -> TaskData:
    """A task of which only the number of rows is known, every example as long as it may be: to plan with.

    What the source has no number for is carved out of what it has, in the shares of `tasks.splits`.
    """
    kind = TYPES[source.type]
    rows: dict[str, int] = {split: count for split, count in source.examples.items()}  # noqa: C416
    if "test" not in rows and "validation" in rows:
        rows["test"] = rows.pop("validation")
    shares = {"test": TEST_SHARE, "validation": VALIDATION_SHARE}
    carved = {name: round(share * rows["train"]) for name, share in shares.items() if name not in rows}
    rows |= carved
    rows["train"] -= sum(carved.values())
    splits: dict[str, Split] = {
        split: kind.assume(source, max(1, min(rows[split], caps.get(split) or rows[split])), max_length, reader)
        for split in ("train", "validation", "test")
    }
    classes = tuple(map(str, range(source.classes)))
    return TaskData(name_of(source), classes, kind.metric(source), splits, "not loaded", kind.loss, type=kind.name)


def _in_hash_order(frame: pd.DataFrame) -> pd.DataFrame:
    columns = [frame["text"], frame["text_pair"] if "text_pair" in frame else frame["text"], frame["label"]]
    keys = [
        hashlib.sha256(f"{text}\0{pair}\0{label}".encode()).digest() for text, pair, label in zip(*columns, strict=True)
    ]
    return frame.iloc[sorted(range(len(keys)), key=keys.__getitem__)]


def _digest(splits: Mapping[str, Split]) -> str:
    """As it was before there were other types than classification: finished cells stay valid."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        assert isinstance(split, EncodedSplit)
        digest.update(f"{name} {len(split)}\n".encode())
        for array in (split.tokens, split.offsets, split.token_types, split.labels):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
