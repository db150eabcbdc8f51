"""Only the task head learns, on a frozen backbone. The reference at 0 adapter parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapad_ray.adapters.lane import Lane
from adapad_ray.methods.base import Method, MethodConfig
from adapad_ray.methods.plan import Deployable, Plan


class HeadOnly(Method[MethodConfig]):
    """A linear probe on the backbone's features. There is no adapter, no budget and no PEFT export."""

    name = "head_only"
    summary = "no adapter: only the task head learns (the reference at 0 parameters)"
    shares_passes = True
    Config = MethodConfig

    def plan(self) -> Plan:
        return Plan(parameters=0, peak_parameters=0, lanes=1, ranks={}, backbone_passes=1)

    def build(self, generator: torch.Generator) -> None:
        self.adapted.add_head(0)

    def lanes(self, step: int) -> Sequence[Lane]:
        return (Lane.prefix(0),)

    def whole(self) -> Lane:
        return Lane.prefix(0)

    def deployables(self) -> list[Deployable]:
        return [Deployable(Lane.prefix(0))]
