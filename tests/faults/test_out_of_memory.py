"""Memory that is not enough, for real: once more with half the batch, then a sentence; see `out_of_memory_case`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASE = Path(__file__).with_name("out_of_memory_case.py")


def run(work: str, folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What the run that failed said, what came of the one with enough memory for half, and of one without a limit."""
    # With one arena, what the allocator keeps for itself does not depend on how the threads took turns.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, str(CASE), work, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    failed, halved, plain = json.loads(ended.stdout.splitlines()[-1])
    assert [outcome.pop("ran_out_with") for outcome in (failed, halved, plain)] == [[8, 4], [8], []]
    return failed["error"], halved, plain


def test_training_begins_again_with_half_the_batch_and_is_then_that_training(tmp_path: Path) -> None:
    error, halved, plain = run("training", tmp_path)
    assert (halved["batch_size"], halved["requested"]) == (4, 8)
    assert (plain["batch_size"], plain["requested"]) == (4, 4)
    assert halved["losses"] == plain["losses"]
    assert error.startswith(
        "ModelError: The training on a grid of 256 x 256 ran out of memory with a batch size of 8 and of 4 ("
    )
    assert error.endswith(
        "Nothing was published. Free memory on the device, or lower --conf batch_size or --conf spatial_size."
    )


@pytest.mark.parametrize(
    ("work", "done", "said", "setting"),
    [
        (
            "embedding",
            {"embedded": 8},
            "EncoderError: The embedding with wide ran out of memory with a batch size of 8 and of 4 (",
            "embed_batch_size",
        ),
        ("scoring", {"scored": 8}, "ModelError: The entropy scoring with model ", "score_batch_size"),
    ],
)
def test_pool_is_gone_through_with_half_the_batch(
    tmp_path: Path, work: str, done: dict[str, int], said: str, setting: str
) -> None:
    error, halved, plain = run(work, tmp_path)
    assert halved == plain == done
    assert error.startswith(said)
    assert f"lower --conf {setting}" in error
