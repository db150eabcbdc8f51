"""What a training on a GPU must survive: a stop, too little memory in the middle of a step, and a broken context."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adapad_ray.distributed import JobContext, JobOutcome, SetupContext, WorkerPool, WorkerRequest, connect
from adapad_ray.testing import assert_same_training
from adapad_ray.training.cell import Workspace
from benchmarks.gpu import cells
from benchmarks.gpu.scale import DEVICE, Scale, backbone, random_task


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row per check."""
    checks: dict[str, Callable[[Scale], str]] = {
        "stop, resume": _resume,
        "out of memory, then a good cell": _out_of_memory,
        "broken context, then a good job": _broken_context,
    }
    for name, check in checks.items():
        try:
            yield {"check": name, "result": check(scale)}
        except Exception as error:  # noqa: BLE001 - one check must not hide the others
            yield {"check": name, "error": f"{type(error).__name__}: {error}"[:500]}


def _resume(scale: Scale) -> str:
    frozen = backbone(scale.shapes[0])
    workspace = Workspace(frozen, random_task(scale), DEVICE)
    cell = cells.identity("adapad", workspace, scale)
    straight = cells.trainer(cell, workspace)
    straight.start()
    straight.run()
    expected = straight.checkpoint()
    straight.adapted.detach()
    stopped = cells.trainer(cell, workspace)
    stopped.start()
    stopped.run(stop_at=scale.steps // 2)
    saved = stopped.checkpoint()
    stopped.adapted.detach()
    resumed = cells.trainer(cell, workspace)
    resumed.resume(saved)
    resumed.run()
    got = resumed.checkpoint()
    resumed.adapted.detach()
    if DEVICE == "cpu":
        assert_same_training(resumed, straight)
    largest = max(float((got.tensors[k].float() - v.float()).abs().max()) for k, v in expected.tensors.items())
    return "bitwise the uninterrupted training" if largest == 0 else f"differs by at most {largest:.1e}"


def _out_of_memory(scale: Scale) -> str:
    workspace = Workspace(backbone(scale.shapes[0]), random_task(scale), DEVICE)
    good = cells.identity("lora", workspace, scale)
    with tempfile.TemporaryDirectory() as folder:
        cells.run(good, workspace, Path(folder) / "before")
        before = _allocated()
        try:
            with _too_little_memory(workspace):
                cells.run(good, workspace, Path(folder) / "failed")
        except torch.OutOfMemoryError as error:
            message = str(error).partition(".")[0]
        else:
            raise AssertionError("the cell did not run out of memory")
        gc.collect()
        left = _allocated() - before
        cells.run(good, workspace, Path(folder) / "after")
    return f"{message}; {left} bytes left behind; the next cell ran"


@contextmanager
def _too_little_memory(workspace: Workspace) -> Iterator[None]:
    """Leaves less memory than a step needs; on a CPU, the model raises what torch would."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**21) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def fail(*_: Any) -> None:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("simulated out of memory. On a CPU")

    last = [module for module in workspace.backbone.model.modules() if isinstance(module, torch.nn.LayerNorm)][-1]
    hook = last.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def _allocated() -> int:
    return torch.cuda.memory_allocated() if DEVICE == "cuda" else 0


def _broken_context(scale: Scale) -> str:
    with (
        connect(num_cpus=2),
        WorkerPool(set_up, run, request=WorkerRequest(gpus=1.0 if DEVICE == "cuda" else 0.0), max_attempts=2) as pool,
    ):
        pool.submit("broken", {"asserts": True})
        pool.submit("good", {"asserts": False})
        outcomes: dict[str, JobOutcome] = {}
        while len(outcomes) < 2:
            outcomes |= {event.job_id: event for event in pool.poll() if isinstance(event, JobOutcome)}
    broken, good = outcomes["broken"], outcomes["good"]
    said = "" if broken.error is None else f"{broken.error.type}: {broken.error.message}".partition("\n")[0]
    assert (broken.status, good.status) == ("lost", "done"), f"{broken.status}, {good.status}; {said}"
    return f"the good job ran; the other, after {broken.attempts} attempts: {said}"


def set_up(context: SetupContext) -> torch.device:
    """Puts something on the device, as a backbone would be."""
    return torch.ones(8, device=context.device).device


def run(device: torch.device, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Adds up ones, or indexes out of range, which breaks the context of a GPU."""
    if payload["asserts"]:
        if device.type == "cpu":
            raise torch.AcceleratorError("CUDA error: device-side assert triggered (simulated)")
        torch.ones(8, device=device)[torch.tensor([99], device=device)].sum().item()
    return {"sum": float(torch.ones(8, device=device).sum())}
