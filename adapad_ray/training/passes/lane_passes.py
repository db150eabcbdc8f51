"""The passes of a round whose losses and gradient norms are still on the device, and how all are read at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapad_ray.training.record import lane_name


class DivergedError(RuntimeError):
    """A loss, gradient or parameter is not finite; the message names the lane and the step. It ends its cell alone."""


@dataclass(frozen=True)
class LanePass:
    """One pass of a lane in one step. Its numbers are tensors without dimensions, on the device."""

    step: int
    position: int
    """Of the lane, among the lanes of its step."""
    lane: int
    acting_parameters: int
    own_tokens: int
    """Non-padding tokens of this worker's part of the batch."""
    size: tuple[int, int] | tuple[Tensor, Tensor]
    """Tokens of the whole batch, without and with padding; on the device where workers have summed them there."""
    loss: Tensor
    norm: Tensor
    """Of the gradient, before clipping."""


@dataclass(frozen=True)
class FinishedPass:
    """A pass after its numbers have been read."""

    step: int
    position: int
    lane: int
    acting_parameters: int
    own_tokens: int
    tokens: int
    padded_tokens: int
    loss: float


class LanePasses:
    """The passes since the last reading."""

    def __init__(self) -> None:
        self._passes: list[LanePass] = []

    def add(self, done: LanePass) -> None:
        """Keeps a pass for the next reading."""
        self._passes.append(done)

    def read(self, largest: Mapping[int, Tensor]) -> list[FinishedPass]:
        """Waits for the device, once, and returns the passes since the last reading in their order.

        Args:
            largest: lane → its largest parameter after the last step; empty within a round.

        Raises:
            DivergedError: a number is not finite; of several the first is named.
        """
        passes, self._passes = self._passes, []
        wanted = [number for p in passes for number in (p.loss, p.norm, *p.size)] + list(largest.values())
        on_device = [number for number in wanted if isinstance(number, Tensor)]
        read = iter(_transfer(on_device))
        numbers = iter([next(read) if isinstance(number, Tensor) else number for number in wanted])
        finished = []
        for p in passes:
            loss, norm, tokens, padded = (next(numbers) for _ in range(4))
            _require_finite("loss", loss, p.lane, p.step)
            _require_finite("gradient norm", norm, p.lane, p.step)
            size = int(tokens), int(padded)
            finished.append(FinishedPass(p.step, p.position, p.lane, p.acting_parameters, p.own_tokens, *size, loss))
        for lane, value in zip(largest, numbers, strict=True):
            _require_finite("largest parameter", value, lane, passes[-1].step)
        return finished


def _transfer(numbers: Sequence[Tensor]) -> list[float]:
    """Reads tensors without dimensions in one transfer. A number that never was on the device is sent there first."""
    if not numbers:
        return []
    device = numbers[0].device
    values: list[float] = torch.stack([number.to(device, non_blocking=True) for number in numbers]).tolist()
    return values


def _require_finite(what: str, value: float, lane: int, step: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(f"lane {lane_name(lane)}, step {step}: the {what} is {value}")
