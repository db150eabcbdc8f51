"""The components of a linear task, which trained components are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NOTHING = 1e-12
"""Terms below this share of the largest singular value are rounding, not components."""


@dataclass(frozen=True)
class TrueComponents:
    """The terms σ_k u_k v_kᵀ, k = 1 … r, of the SVD of the part of Y that lies in the row space of X.

    Deflation should find them (2605.10741): term k is the best rank-1 fit through X to the residual of Y after terms
    1 … k-1.
    """

    inputs: np.ndarray
    """X, float64 `[d, n]`."""
    values: np.ndarray
    """σ, falling, float64 `[r]`."""
    left: np.ndarray
    """u_k, float64 `[r, m]`."""
    right: np.ndarray
    """v_k, float64 `[r, n]`."""

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> TrueComponents:
        """The components of fitting Y `[m, n]` through X `[d, n]`, whose rows are linearly independent."""
        basis = np.linalg.qr(x.T)[0]  # [n, d], an orthonormal basis of X's row space
        left, values, right = np.linalg.svd(y @ basis, full_matrices=False)
        r = int((values > _NOTHING * values[0]).sum())
        return cls(x, values[:r], left.T[:r], right[:r] @ basis.T)

    def error(self, k: int, a: np.ndarray, b: np.ndarray) -> float:
        """‖b aᵀX - σ_k u_k v_kᵀ‖_F / σ_k for component k, counted from 1, with a `[d]` and b `[m]`: 1 for b = 0."""
        term = self.values[k - 1] * np.outer(self.left[k - 1], self.right[k - 1])
        return float(np.linalg.norm(np.outer(b, a @ self.inputs) - term) / self.values[k - 1])
