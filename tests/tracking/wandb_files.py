"""Reads the files that Weights & Biases keeps of offline runs: records of LevelDB's log format, each a protobuf."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, OPENING = 32_768, 7, 7
"""Bytes of a block, of the header of a part (checksum 4, length 2, kind 1) and of the file's own header."""
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record."""


def records(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    content, at, record = file.read_bytes(), OPENING, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def finished(file: Path) -> list[Any]:
    """The records of a run that has ended: another process writes them, and the last says that it has."""
    deadline = time.monotonic() + 60
    while True:
        found = list(records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, f"{file} does not end"
        time.sleep(0.05)


def history(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Id of a run → metric → (step, value), of all launches in their order."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        of_run = found.setdefault(file.stem.removeprefix("run-"), {})
        for record in finished(file):
            for item in record.history.item:
                key = item.key or item.nested_key[0]
                if not key.startswith("_"):
                    of_run.setdefault(key, []).append((record.history.step.num, json.loads(item.value_json)))
    return found
