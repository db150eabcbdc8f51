"""The jobs of a pool that computes cells: what a worker keeps, and how it computes one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from adapad_ray.distributed.jobs import JobContext, SetupContext
from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_backbone
from adapad_ray.results import CellIdentity
from adapad_ray.training.cell import Workspace, run_cell

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class BackboneRequest:
    """Which backbone every worker loads, and the digest it must turn out to have."""

    source: str
    num_labels: int
    pooling: str
    dtype: str
    digest: str


def open_workspace(context: SetupContext) -> Workspace:
    """A worker's set-up: the frozen backbone, and the tokenised data straight from the object store."""
    request: BackboneRequest = ray.get(context.shared["backbone"])
    data = ray.get(context.shared["data"])
    backbone = load_backbone(request.source, request.num_labels, pooling=request.pooling, dtype=request.dtype)
    if backbone.digest != request.digest:
        raise BadRequestError(
            f"model {request.source} differs between the driver ({request.digest[:12]}) and this worker "
            f"({backbone.digest[:12]}): use the same files on every node"
        )
    backbone.model.to(context.device)
    return Workspace(backbone, data, context.device)


def compute(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """One cell. The value is its validation metric as `score`; the record lies in the cell's folder."""
    result = run_cell(
        context.job_id,
        CellIdentity.model_validate(payload["identity"]),
        workspace,
        Path(payload["folder"]),
        base_model=payload["base_model"],
        progress=_throttled(context),
    )
    return {"score": result.final.validation[result.metric]}


def _throttled(context: JobContext) -> Callable[[dict[str, Any]], None]:
    last = 0.0

    def report(data: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            context.report(data)

    return report
