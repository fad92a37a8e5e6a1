"""Errors as a viewer gets them."""

import json
from collections.abc import Callable

import pytest
from fastapi import HTTPException
from monailabel.endpoints import batch_infer, scoring, train
from monailabel.utils.async_tasks.utils import background_processes

from coldstart.adapters.errors import answer_to


@pytest.mark.parametrize(
    ("method", "run"),
    [("train", train.run_model), ("scoring", scoring.run_method), ("batch_infer", batch_infer.run)],
)
def test_a_task_that_runs_already_is_429_with_a_sentence(method: str, run: Callable[[str], object]) -> None:
    background_processes[method] = {"id": None}
    try:
        with pytest.raises(HTTPException) as refused:
            run("any")
    finally:
        del background_processes[method]
    answer = answer_to(refused.value)
    detail = json.loads(answer.body)["detail"]
    assert answer.status_code == 429 and "running already" in detail and "+" not in detail
