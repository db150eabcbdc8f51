"""Provenance: methods, settings, digests and library versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

from markupsafe import Markup

from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Heading, Paragraph, Table, Text, code, note, settings_list
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult


@dataclass(frozen=True)
class Settings(Section):
    """The settings that the cells of the curve used, and the versions of what computed them."""

    heading = "Methods and settings"

    methods: list[list[Text]]
    """One row per label."""
    model_digest: str
    data_digest: str
    versions: dict[str, str]

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        identity = sweep.results[0].identity
        by_label = sorted(sweep.curves.results, key=lambda result: result.identity.label)
        methods = [_method(label, list(cells)) for label, cells in groupby(by_label, lambda r: r.identity.label)]
        versions = merged_settings([result.versions for result in sweep.results])
        return cls(methods, identity.model_digest, identity.data_digest, versions)

    def words(self) -> Iterator[Block]:
        columns = ["method", "implementation", "modules", "configuration", "training"]
        yield Table(columns, self.methods, styles={1: "wrap", 2: "text", 3: "wrap", 4: "wrap"})
        digests = Markup("Model digest {}, data digest {}.").format(code(self.model_digest), code(self.data_digest))
        yield note(Markup("The settings that the cells used, tuned values included. {}").format(digests))
        yield Heading("Versions")
        yield Paragraph(settings_list(self.versions))


def merged_settings(settings: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Values by name; a setting that differs between the dictionaries lists every value."""
    merged: dict[str, dict[str, None]] = {}
    for values in settings:
        for name, value in values.items():
            text = json.dumps(value, ensure_ascii=False, default=str).strip('"')
            merged.setdefault(name, {})[text] = None
    return {name: " | ".join(values) for name, values in sorted(merged.items())}


def _method(label: str, cells: Sequence[CellResult]) -> list[Text]:
    identities = [cell.identity for cell in cells]
    modules = sorted({len(identity.target_modules) for identity in identities})
    return [
        label,
        f"{identities[0].method} (version {identities[0].method_version})",
        ", ".join(map(str, modules)),
        settings_list(merged_settings([identity.acting_config for identity in identities])),
        settings_list(merged_settings([identity.training for identity in identities])),
    ]
