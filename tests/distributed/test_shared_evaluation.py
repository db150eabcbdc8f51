"""The workers of a cell evaluate its final model and prefixes side by side, and write what one of them writes."""

from __future__ import annotations

import filecmp
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from threads import Connections

from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace
from adapad_ray.training.cell import CellRequest, run_cell
from adapad_ray.training.cell.deployment import Deployment

CASE = MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 3, "r_max": 3, "local_steps": 2})


def test_each_worker_evaluates_some_of_the_models(tmp_path, monkeypatch):
    evaluate, evaluated = Deployment._evaluate, defaultdict(list)

    def recorded(self, deployable):
        evaluated[threading.current_thread().name].append(deployable.prefix)
        return evaluate(self, deployable)

    monkeypatch.setattr(Deployment, "_evaluate", recorded)
    alone = CASE.run(tmp_path / "alone")
    assert list(evaluated.values()) == [[None, 2, 1]]
    evaluated.clear()

    workspaces = [tiny_workspace() for _ in range(2)]
    request = CellRequest("cell", CASE.identity(), tmp_path / "together", "tiny")
    with Connections(2) as connections, ThreadPoolExecutor(2) as pool:
        together, other = pool.map(
            lambda rank: run_cell(request, workspaces[rank], exchange=connections.exchange(rank)), range(2)
        )
    assert other is None and together.points == alone.points
    assert sorted(evaluated.values(), key=len) == [[2], [None, 1]]
    for file in (
        "predictions.safetensors",
        *(f"{name}/adapter_model.safetensors" for name in ("adapter", "prefix-1", "prefix-2")),
    ):
        assert filecmp.cmp(tmp_path / "together" / file, tmp_path / "alone" / file, shallow=False)
