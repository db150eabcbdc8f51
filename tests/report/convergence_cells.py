"""Synthetic cells that recorded the errors of their components."""

import pandas as pd

from tests.report.factory import RANK_ONE, SweepFactory

BUDGET = 2 * RANK_ONE * 36
ADAPAD = {"staleness": 0, "advance_learning": True}


def curve(rate, rounds, start=1, plateau=1.0):
    """Error `plateau` before round `start`, then `rate` times the one before in every round."""
    return [plateau * rate ** max(0, number - start + 1) for number in range(1, rounds + 1)]


class ConvergenceCells:
    """Writes cells with component errors into `folder`."""

    def __init__(self, folder):
        self.factory = SweepFactory(folder, items=50)
        self.folder = folder

    def add(self, label, curves, *, seed=0, config=None, lane_passes=None):
        result = self.factory.cell(label, BUDGET, seed, 0.8)
        rounds = max(map(len, curves))
        cost = result.cost.model_copy(update={"steps": 5 * rounds, "lane_passes": lane_passes or 10 * rounds})
        identity = result.identity.model_copy(update={"config": config or {}})
        result = result.model_copy(update={"identity": identity, "cost": cost})
        rows = [
            {"round": number, "step": 5 * number, "component": k, "error": error}
            for k, errors in enumerate(curves, start=1)
            for number, error in enumerate(errors, start=1 + rounds - len(errors))
        ]
        cell = self.folder / "cells" / result.id
        (cell / "result.json").write_text(result.model_dump_json())
        pd.DataFrame(rows).to_csv(cell / "component_errors.csv", index=False)
        return result
