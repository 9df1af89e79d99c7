"""Which errors end a trial for a cause of its own, and which leave nothing known."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from trainables.causes import Diverged, End, Infeasible, end_of


def test_what_a_trial_itself_says() -> None:
    assert end_of(Diverged("the loss was nan at step 3")) == End("failed", "the loss was nan at step 3")
    assert end_of(Infeasible("too small")) == End("infeasible", "too small")


def test_memory_of_an_accelerator() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCompile with ..."),
    ):
        end = end_of(error)
        assert end is not None and end.memory and end.state == "infeasible"
        assert end.cause == f"out of the accelerator's memory: {str(error).splitlines()[0]}"


def test_memory_of_this_machine_as_it_really_runs_out() -> None:
    errors: list[Exception] = [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))]
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, dtype=np.uint8)
    for error in [*errors, of_torch.value, of_numpy.value, MemoryError()]:
        end = end_of(error)
        assert end is not None and end.memory and end.state == "infeasible"
        assert end.cause.startswith("out of this machine's memory: ") and len(end.cause) > 35
        assert "\n" not in end.cause and "alloc_cpu" not in end.cause


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), OSError(errno.EIO, "x"), KeyError("a")])
def test_anything_else_is_unknown(error: Exception) -> None:
    assert end_of(error) is None
