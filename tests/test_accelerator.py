"""Errors of a GPU: which of them a process survives."""

from __future__ import annotations

import re

import pytest
import torch

from adapad_ray.accelerator import (
    NoAcceleratorError,
    accelerator_name,
    arithmetic,
    is_lost,
    memory_within_reach,
    peak_memory,
    require_accelerator,
)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), False),
        (RuntimeError("expected scalar type Float but found Half"), False),
        (ValueError("CUDA error: said by somebody else"), False),
    ],
)
def test_a_process_loses_its_gpu_by_cuda_errors_but_not_by_too_little_memory(error: Exception, lost: bool) -> None:
    assert is_lost(error) is lost


def test_a_cpu_is_named_by_its_architecture_and_its_memory_is_that_of_the_process() -> None:
    assert accelerator_name("cpu")
    block = torch.ones(30_000_000)
    assert peak_memory("cpu") > block.nbytes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_process_that_was_given_a_gpu_which_torch_does_not_see_says_so() -> None:
    with pytest.raises(NoAcceleratorError, match=rf"torch {re.escape(torch.__version__)} \(.*\) sees no GPU on \S+"):
        require_accelerator()


@pytest.mark.parametrize("tf32", [False, True])
def test_what_a_gpu_computes_in_is_set_for_a_block_and_restored(tf32: bool) -> None:
    def state() -> tuple[str, bool, bool]:
        cudnn = torch.backends.cudnn.allow_tf32
        return torch.get_float32_matmul_precision(), cudnn, torch.are_deterministic_algorithms_enabled()

    before = state()
    with pytest.raises(ZeroDivisionError), arithmetic(tf32=tf32, deterministic=True):
        assert state() == ("high" if tf32 else "highest", tf32, True)
        raise ZeroDivisionError
    assert state() == before


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_a_device_may_be_named_without_its_number(device: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    stand_ins = {  # what torch's own functions, which check the name, call on a GPU
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "mem_get_info": lambda _: (30, 100),
        "memory_reserved": lambda _: 10,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda i: asked.append(i) or 0.25, raising=False)

    assert memory_within_reach(device) == 25
    assert asked == [index]
