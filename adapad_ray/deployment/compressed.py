"""Completes a compressed adapter: what a user of the original has beside its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from adapad_ray.adapters.compression import PROVENANCE, CompressionReport
from adapad_ray.deployment.loading_code import LoadingCode
from adapad_ray.deployment.model_card import CARD, front_matter, loading
from adapad_ray.files import write_text
from adapad_ray.safe_json import read_object

COPIED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
)  # fmt: skip
"""Files beside an adapter that do not depend on its size: names of classes, tokenizer, image processor."""


class _Loading(BaseModel):
    auto_class: str = Field(pattern=r"^AutoModel\w*$")
    outputs: int
    arguments: dict[Annotated[str, Field(pattern=r"^\w+$")], Any]
    own_class: bool = False
    chats: bool = False
    named: bool = False


class _Exported(BaseModel):
    """What the card of an export needs of its record, which may come from anyone."""

    model: str
    method: str = Field(pattern=r"^\w+$")
    auto_class: str
    labels: tuple[str, ...]
    loading: _Loading


def complete_compressed(source: Path, to: Path, report: CompressionReport) -> None:
    """Copies tokenizer and names of classes from the adapter in `source` to `to`, and writes a model card there."""
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                shutil.copy(path, to)
    record = read_object(to / PROVENANCE, str(to / PROVENANCE))
    write_text(to / CARD, _card(source.resolve().name, to.resolve().name, report, record))


def _card(original: str, name: str, report: CompressionReport, record: dict[str, Any]) -> str:
    before, after = report.ranks
    about = (
        f"# {original}, compressed to {report.parameters:,} parameters\n\nThe adapter `{original}` of "
        f"{report.parameters_before:,} parameters, cut to the largest singular values of its updates with adapad-ray "
        f"(PARA, 2604.27796): {after:,} of {before:,} components, {100 * report.energy_kept:.1f} % of the energy, by "
        f"{json.dumps(report.keep)} and {report.cut} cut. Nothing was trained or tested after the cut."
    )
    try:
        exported = _Exported.model_validate(record)
    except ValidationError:  # not an export of this package
        return f"---\nlibrary_name: peft\ntags: [adapad-ray, lora]\n---\n\n{about}\n"
    known = exported.model_dump()
    return "\n\n".join([front_matter(known), about, loading(known, LoadingCode(**known["loading"]), name)]) + "\n"
