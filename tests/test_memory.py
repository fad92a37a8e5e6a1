"""Which errors say that memory ran out, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coldstart.exceptions import ModelError
from coldstart.memory import in_smaller_batches, ran_out_of_memory

NO_ENGINE = "GET was unable to find an engine to execute this computation"


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB.",
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        NO_ENGINE,
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
)
def test_full_card_is_told_whoever_reports_it(said: str) -> None:
    assert ran_out_of_memory(RuntimeError(said))


@pytest.mark.parametrize("said", ["NCCL Error 1: unhandled cuda error", "CUDA error: device-side assert triggered"])
def test_other_errors_of_a_card_are_not_taken_for_that(said: str) -> None:
    assert not ran_out_of_memory(RuntimeError(said))
    with pytest.raises(RuntimeError, match=said):
        in_smaller_batches(failing(said, []), (8, 4), what="The work", remedy="Wait.", error=ModelError)


def test_card_that_the_libraries_do_not_support_is_tried_once_more_and_its_reason_said() -> None:
    tried: list[int] = []
    with pytest.raises(ModelError, match=NO_ENGINE):
        in_smaller_batches(failing(NO_ENGINE, tried), (8, 4), what="The work", remedy="Wait.", error=ModelError)
    assert tried == [8, 4]


def failing(said: str, tried: list[int]) -> Callable[[int], None]:
    def run(batch_size: int) -> None:
        tried.append(batch_size)
        raise RuntimeError(said)

    return run
