"""CPU threads and GPUs as a process uses them: its share, what it needed at most, and errors that end the process."""

from __future__ import annotations

import gc
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class AcceleratorLostError(RuntimeError):
    """An error has left an accelerator that this process cannot use again; a new process can."""


class AcceleratorMemoryError(RuntimeError):
    """A cell needs more memory than there is on its accelerator; the message says what would need less."""


class NoAcceleratorError(RuntimeError):
    """This process was given a GPU that torch does not see."""


def require_accelerator() -> None:
    """Check that torch sees a GPU here.

    Raises:
        NoAcceleratorError: it does not.
    """
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        raise NoAcceleratorError(f"torch {torch.__version__} ({build}) sees no GPU on {platform.node()}")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def arithmetic(*, tf32: bool, deterministic: bool) -> Iterator[None]:
    """Set how GPUs compute while the block runs; CPUs are not affected.

    Args:
        tf32: whether fp32 products use TF32, which keeps 10 bits of the mantissa instead of 23.
        deterministic: whether torch chooses deterministic algorithms where it has them.
    """
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    chosen, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.use_deterministic_algorithms(deterministic or chosen, warn_only=deterministic or warns)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.use_deterministic_algorithms(chosen, warn_only=warns)


def accelerator_name(device: str) -> str:
    """Return the name of a GPU, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def limit_memory(device: str, share: float) -> None:
    """Keep this process to its `share` of a GPU's memory, so that it cannot take that of the others there."""
    if device.startswith("cuda") and share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def memory_within_reach(device: str) -> int:
    """Return the bytes of a GPU's memory that this process has or could get."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(torch.device(device).index)  # refuses "cuda", takes None
    return min(free + torch.cuda.memory_reserved(device), int(share * total))


def free_memory(device: str) -> None:
    """Return the memory that torch has cached to the device."""
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()


def wait_for_device(device: str) -> None:
    """Return when a GPU has computed what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    """Begin a new measurement for `peak_memory`; a CPU process has one only."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> int:
    """Return bytes: allocated on a GPU since the last reset, or of the whole process on a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_lost(error: BaseException) -> bool:
    """Whether this process cannot use its accelerator after `error`; running out of memory does no harm."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, getattr(torch, "AcceleratorError", ())):  # since torch 2.8
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
