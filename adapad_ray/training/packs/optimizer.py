"""AdamW for a pack: a handful of operations on `[slots, numbers]`, with a rate and a step count for every component."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adapad_ray.adapters.packs import Pack
from adapad_ray.training.optimizer import ComponentOptimizer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""The defaults of torch's AdamW, which lone slots use."""


class PackOptimizer:
    """Clips and steps every slot by its own settings: the numbers of the slots' own optimizers, up to rounding.

    The state of a parameter stays in the optimizer of its slot, as views into the stacks here, so that checkpoints and
    later steps of that optimizer alone find it there.

    Args:
        optimizers: of each slot of the pack; they set the rates (`begin_step`).
    """

    def __init__(self, pack: Pack, optimizers: Sequence[ComponentOptimizer]) -> None:
        rows = pack.rows
        self._rows, self._optimizers = rows, optimizers
        self._exp_avg, self._exp_avg_sq = torch.zeros_like(rows.values), torch.zeros_like(rows.values)
        device = rows.values.device
        self._steps = torch.zeros(rows.slots, rows.segments, device=device)
        births = np.zeros((rows.slots, rows.segments), dtype=np.int64)
        for placed in rows.placed:
            optimizer, steps = optimizers[placed.slot], self._steps[placed.slot, placed.segments]
            births[placed.slot, placed.segments] = optimizer.birth(placed.parameter)
            exp_avg, exp_avg_sq = placed.of(self._exp_avg), placed.of(self._exp_avg_sq)
            optimizer.keep_state_in(placed.parameter, step=steps[0], exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
            steps.copy_(steps[0].clone())
        self._births = [np.unique(of_slot, return_inverse=True) for of_slot in births]
        decays = [optimizer.settings.weight_decay for optimizer in optimizers]
        self._decays = self._moved(decays) if any(decays) else None
        self._max_norms = self._moved([optimizer.settings.max_grad_norm for optimizer in optimizers])
        self.finite = torch.ones(rows.slots, dtype=torch.bool, device=device)
        """Slots whose losses and gradients have all been finite, bool `[slots]` on the device."""

    def _moved(self, numbers: Sequence[float] | np.ndarray) -> Tensor:
        """Numbers of the host in fp64 on the device, without waiting for it."""
        tensor = torch.as_tensor(numbers, dtype=torch.float64)
        if self._rows.values.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._rows.values.device, non_blocking=True)

    def _rates(self) -> Tensor:
        """The learning rate of every segment `[slots, segments]`; a component that is born late warms up on its own."""
        rates = np.empty((self._rows.slots, self._rows.segments))
        for slot, (births, inverse) in enumerate(self._births):
            of_birth = self._optimizers[slot].rates
            rates[slot] = np.array([of_birth.get(int(birth), 0.0) for birth in births])[inverse]
        return self._moved(rates)

    @torch.no_grad()
    def step(self, losses: Tensor) -> Tensor:
        """Clips the gradients in the pack's rows and steps every slot with them; returns their norms `[slots]`.

        A slot keeps its values from the first step on in which its loss or gradient is not finite.

        Args:
            losses: `[slots]`.
        """
        rows = self._rows
        gradients = rows.gradients
        norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
        self.finite &= (losses + norms).isfinite()
        clip = (self._max_norms / (norms + 1e-6)).clamp(max=1.0).to(gradients.dtype)
        gradients.mul_(clip.unsqueeze(1)).masked_fill_(~self.finite.unsqueeze(1), 0.0)
        self._exp_avg.lerp_(gradients, 1 - BETA_1)
        self._exp_avg_sq.mul_(BETA_2).addcmul_(gradients, gradients, value=1 - BETA_2)
        self._steps += 1

        rates, steps = self._rates() * self.finite.unsqueeze(1), self._steps.double()
        size = self._columns(rates / (1 - BETA_1**steps))
        root = self._columns((1 - BETA_2**steps).sqrt())
        if self._decays is not None:
            rows.values.mul_(self._columns(1 - rates * self._decays.unsqueeze(1)))
        rows.values.sub_(size.mul_(self._exp_avg).div_(self._exp_avg_sq.sqrt().div_(root).add_(EPSILON)))
        return norms

    def _columns(self, of_segments: Tensor) -> Tensor:
        """`[slots, segments]` as `[slots, columns]`."""
        columns: Tensor = of_segments.to(self._rows.values.dtype)
        return columns.index_select(1, self._rows.segment_of_column)
