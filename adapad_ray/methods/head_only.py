"""The left end of the curve: the backbone stays frozen and only the task head learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapad_ray.adapters.lane import Lane
from adapad_ray.methods.base import Deployable, Method, MethodConfig, Plan


class HeadOnly(Method[MethodConfig]):
    """No adapter at all: a linear probe on the backbone's features. It exports no PEFT adapter."""

    name = "head_only"
    summary = "no adapter: only the task head learns (the reference at 0 parameters)"
    Config = MethodConfig
    budgeted = False
    head_alone = True
    backbone_passes = 1

    def plan(self) -> Plan:
        return Plan(parameters=0, peak_parameters=0, lanes=1, ranks={})

    def build(self, generator: torch.Generator) -> None:
        self.adapted.add_head(0)

    def lanes(self, step: int) -> Sequence[Lane]:
        return (Lane.prefix(0),)

    def deployables(self) -> list[Deployable]:
        return [Deployable(Lane.prefix(0))]
